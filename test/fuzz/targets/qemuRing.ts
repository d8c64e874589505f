// SPDX-License-Identifier: Apache-2.0
import { qemuTarget } from './qemu.ts'

export default qemuTarget(
  'qemuRing',
  "the server's frames against QEMU, in shared memory that the server scribbles over",
  true,
)
