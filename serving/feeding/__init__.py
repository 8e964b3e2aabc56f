"""The process that writes what scoring processes read, from worker tables and changelogs."""
