"""The interface as data: records, methods, their Candid form. No handler is imported here."""
