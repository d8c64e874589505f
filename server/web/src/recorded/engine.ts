// SPDX-License-Identifier: Apache-2.0
/** The reader of recordings, in a part of the page of its own: who watches a machine does not load it. */
import './buffer.ts'

export { compare } from '../../../recorded/compare.ts'
export { Recording } from '../../../recorded/recording.ts'
