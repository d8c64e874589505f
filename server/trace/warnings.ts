// SPDX-License-Identifier: Apache-2.0
import { DESCRIPTIONS } from '../policy/builtin.ts'
import { NO_WARNINGS, type WarningTable } from '../policy/warnings.ts'
import type { TraceHeader } from './format.ts'

/** The warnings that a recording's ids stand for. Recordings without a table are from when only `pkvm` had any. */
export function warningsOf({ warnings }: Pick<TraceHeader, 'warnings'>): WarningTable {
  return warnings ?? DESCRIPTIONS.get('pkvm')?.warnings ?? NO_WARNINGS
}
