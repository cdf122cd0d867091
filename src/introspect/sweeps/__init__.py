"""Many runs of one command: what each job became, which are still to be made, and where a search looks next."""
