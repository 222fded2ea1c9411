"""The explorer's pages, one file each; every page is a function of the study's findings."""
