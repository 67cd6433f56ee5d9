"""The truth about processes in SQL: their messages with results, logs, money. Nothing above knows a table."""
