// SPDX-License-Identifier: Apache-2.0
/** Fetches the kernel and makes the initramfs, into the cache folder where the server finds them. */
import { ensureInitramfs } from '../scripts/setup/initramfs.ts'
import { ensureKernel } from '../scripts/setup/kernel.ts'

const { modules } = await ensureKernel()
await ensureInitramfs({ modules })
