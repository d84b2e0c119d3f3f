"""What a plan can show, from the stored data of its baseline."""
