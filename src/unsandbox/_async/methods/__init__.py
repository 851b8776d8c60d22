"""The methods of the client, by kind of object."""
