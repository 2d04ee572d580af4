"""A trained run made smaller: weights set to zero, fewer parts, smaller tables; and retrained."""
