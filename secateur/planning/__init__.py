"""Pure decisions: which experts stay, which type each tensor gets. No torch."""
