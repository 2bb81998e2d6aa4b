"""The minutes between two hours: what users do now reaches the online features seconds later."""
