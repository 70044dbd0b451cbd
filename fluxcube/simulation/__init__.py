"""An analytic planet whose fluxes are known everywhere, and the files its towers and satellites would give."""
