"""Tests of embedkit; the folders mirror the package."""
