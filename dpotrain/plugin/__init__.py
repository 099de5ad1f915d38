"""What plugins are made of: the hook specifications, the component types, and the manager that finds them."""
