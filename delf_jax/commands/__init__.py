"""What each command of the table in cli.py does, and its options."""
