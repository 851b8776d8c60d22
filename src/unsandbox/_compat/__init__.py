"""What the async client and its generated sync twin must each do in their own way, under the same names."""
