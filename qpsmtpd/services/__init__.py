"""What components ask the world through, each behind an interface."""
