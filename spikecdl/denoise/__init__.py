"""Photon-limited images: counts in, rates out."""
