"""The `aif` command. Read main.py (table of commands, exit statuses), then options.py, then the command's own file."""
