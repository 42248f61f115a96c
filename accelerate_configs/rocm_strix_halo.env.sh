# Environment of ROCm on Strix Halo (gfx1151), for bash and zsh: source accelerate_configs/rocm_strix_halo.env.sh
# The same for fish: rocm_strix_halo.env.fish. Reasons and sources: docs/install.md.

# Flash and memory-efficient attention for gfx1151 count as experimental in torch; without this it takes the slow path.
export TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL=1
# Matrix products through hipBLASLt. Reports differ from build to build: set 0, ask the doctor again, keep the faster.
export TORCH_BLAS_PREFER_HIPBLASLT=1
# Current wheels have kernels for gfx1151; in the guise of another GPU it computes with that one's, and may crash.
unset HSA_OVERRIDE_GFX_VERSION
