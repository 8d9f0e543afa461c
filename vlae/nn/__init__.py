"""Networks and their linearisation."""
