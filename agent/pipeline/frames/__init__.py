"""What is done with pictures: faces are hidden, snapshots, crops, tracks, zones and lines are made."""
