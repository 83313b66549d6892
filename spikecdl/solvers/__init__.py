"""Codes and amplitudes of given templates, solved to a certificate."""
