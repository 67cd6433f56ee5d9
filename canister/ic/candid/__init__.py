"""Candid: types, the binary and the text codec, and the JSON form of dfx. Pure functions, no I/O.

    types    what a type is, and which Python values it has          encode, decode   binary, by type
    parse    text → values, by type                                  pretty, as_json  values → text, JSON

Everything raises CandidError and nothing else, whatever it is given, in time bounded by the length of the input.
"""
