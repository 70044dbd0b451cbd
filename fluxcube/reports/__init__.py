"""Reports: one self-contained page on models at towers, with its tables and figures as files."""
