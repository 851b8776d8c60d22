"""How results are shown in notebooks and put on a disk; knows nothing of the wire."""
