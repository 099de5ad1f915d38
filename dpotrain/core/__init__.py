"""What all other packages use: records, errors, files, hashes, formatting. It imports none of them."""
