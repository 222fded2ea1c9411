"""`python -m pellucid` runs the command line."""

from pellucid import main

if __name__ == "__main__":
    main()
