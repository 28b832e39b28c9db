"""Takes enrollments: a seat from roster, an invoice from billing, then its own row."""
