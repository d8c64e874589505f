// SPDX-License-Identifier: Apache-2.0
import { realpathSync } from 'node:fs'
import { dirname, sep } from 'node:path'
import type { Hello } from '../../protocol/generated/messages.ts'

/**
 * The file behind all of a machine's RAM, if it is one that this server may open: the one that it made, or any below a
 * folder (`allowed` ends with a slash), for machines that are started elsewhere.
 */
export function sharedRamFile(ram: Hello['ram'], allowed: string): string | undefined {
  const path = ram[0]?.path
  if (!path || ram.some(range => range.path !== path)) return undefined
  if (path === allowed) return path
  if (!allowed.endsWith(sep)) return undefined
  try {
    const folder = realpathSync(allowed) + sep
    return `${dirname(realpathSync(path))}${sep}`.startsWith(folder) ? path : undefined
  } catch {
    return undefined
  }
}
