// SPDX-License-Identifier: Apache-2.0
import type { TestContext } from 'vitest'
import { ensureQemu, NoSourceError, type QemuVersion } from '../scripts/setup/index.ts'

/** Returns the path of a QEMU that is not the usual one; skips the test, and says why, when Debian has no source of it any more. */
export async function present(qemu: QemuVersion, context: Pick<TestContext, 'skip'>): Promise<string> {
  try {
    return await ensureQemu({ qemu })
  } catch (error) {
    if (error instanceof NoSourceError) context.skip(error.message)
    throw error
  }
}
