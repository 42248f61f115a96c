"""What people read: tables, figures, report.md and report.html."""
