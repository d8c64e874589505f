// SPDX-License-Identifier: Apache-2.0
/**
 * Fetches the kernel and makes the initramfs, into the cache folder where the server finds them. Containers have no compiler and a cache that
 * nobody writes to: what commands want besides the usual one is made here as well.
 */
import { ensureInitramfs } from '../scripts/setup/initramfs.ts'
import { ensureKernel } from '../scripts/setup/kernel.ts'
import { DEVICE_NAMES, driversOf, SHARE_DRIVERS } from '../server/machine/devices.ts'

const { modules } = await ensureKernel()
await ensureInitramfs({ modules })
// boot --exec, smmu-cosim test.
await ensureInitramfs({ modules, programs: ['agent'] })
// boot --share, with --exec and with the usual workload.
const extraModules = Object.keys(SHARE_DRIVERS)
await ensureInitramfs({ modules, programs: ['agent'], extraModules })
await ensureInitramfs({ modules, extraModules })
// boot --device: each of them.
for (const name of DEVICE_NAMES) await ensureInitramfs({ modules, extraModules: Object.keys(driversOf([name])) })
