"""The launcher process: a bare interpreter that imports the standard library and this folder only."""
