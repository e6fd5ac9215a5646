"""Values that every floor may use: configs, contexts, masks, states, key maps, sharding rules."""
