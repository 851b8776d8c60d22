"""Languages, shells and their toolchains."""
