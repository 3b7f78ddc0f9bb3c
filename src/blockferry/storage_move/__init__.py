"""A VM's storage to another datastore: request, plan, record, observation, decision, effects."""
