"""The parts of `canister chat`: which server, how texts become prompts, what a person types, what is shown."""
