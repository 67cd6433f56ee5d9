-- What no program needs to see.
__native = nil
