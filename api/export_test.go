package api

// Shrink lowers the limits of bodies: one, and all together, so that tests
// need no large ones.
func (a *API) Shrink(one int, all int64) { a.intake.maxBody, a.intake.maxBytes = one, all }
