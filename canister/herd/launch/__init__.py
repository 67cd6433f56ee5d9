"""What starts and ends workers, on this machine or on others."""
