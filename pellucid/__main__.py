"""`python -m pellucid` is the command line."""

from pellucid import main

main()
