"""Who may do what: users, their passwords, sessions and API tokens in `state.db`, and `may`."""
