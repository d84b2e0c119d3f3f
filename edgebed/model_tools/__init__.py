"""What a developer does with a model package: draft, repair, measure, describe."""
