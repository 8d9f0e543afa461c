"""vlae."""
