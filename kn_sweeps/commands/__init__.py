"""What people type; each module is one command."""
