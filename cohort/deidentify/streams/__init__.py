"""Coded images without metadata: JPEG, PNG and WebP segments, colour profiles, hidden tails."""
