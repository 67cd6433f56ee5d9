"""The interface as data: records, methods, their Candid form. Imports no handler."""
