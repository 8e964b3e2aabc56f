"""What scoring processes read: slabs of N2O rows, users and items, and how far they are."""
