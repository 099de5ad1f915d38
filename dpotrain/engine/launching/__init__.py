"""The processes of a run on this machine: started, joined with those of other machines, started again."""
