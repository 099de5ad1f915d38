"""The reference's log-probs: computed in every step, stored, or absent."""
