"""The commands, a file for each group: parse, call one room, print."""
