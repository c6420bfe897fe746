; Made from cpu_kernels.c by script/compile-kernels.
; SHA-256 of cpu_kernels.c: bc6848a9f5900cdb3b9ce2eb4d69691f2cad89bc8c7a4f445129d74b46b5ade7

%struct.norm_args = type { ptr, ptr, ptr, ptr, i64, i64, double }
%struct.anon.0 = type { <16 x float> }
%struct.anon.1 = type { <16 x float> }
%struct.apply_rotary_args = type { ptr, ptr, i64, i64 }
%struct.pack_rows_args = type { ptr, ptr, ptr, i64, i64 }
%struct.anon = type { <16 x i16> }
%struct.matmul_args = type { ptr, ptr, ptr, ptr, ptr, ptr, i64, i64 }
%struct.attention_args = type { ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, i64, i64, i64, i64, i64 }
%struct.anon.5 = type { float }
%struct.anon.6 = type { <16 x i8> }
%struct.replay_args = type { ptr, i64, ptr }
%struct.kernel_call = type { ptr, ptr }
%struct.barrier = type { i64, i64, [64 x i8], [64 x i8] }
%struct.anon.2 = type { <32 x i16> }
%struct.anon.3 = type { <32 x i8> }
%struct.anon.4 = type { <16 x i8> }
%struct.anon.7 = type { float }

@HEAD_WIDTH = external constant i64, align 8
@X_IS_INT16 = external constant i64, align 8
@N_ROWS = external constant i64, align 8
@N_OUTPUTS = external constant i64, align 8
@HAS_GELU = external constant i64, align 8
@IS_INT8 = external constant i64, align 8
@N_COLUMNS = external constant i64, align 8
@ADDS = external constant i64, align 8
@N_SPINS = external constant i64, align 8

define dso_local void @norm(ptr noundef %0) #0 {
  %2 = alloca ptr, align 8
  %3 = alloca i64, align 8
  %4 = alloca i64, align 8
  %5 = alloca i64, align 8
  %6 = alloca i64, align 8
  %7 = alloca ptr, align 8
  %8 = alloca ptr, align 8
  %9 = alloca <16 x float>, align 64
  %10 = alloca <16 x float>, align 64
  %11 = alloca i64, align 8
  %12 = alloca <16 x float>, align 64
  %13 = alloca i64, align 8
  %14 = alloca <16 x float>, align 64
  %15 = alloca float, align 4
  %16 = alloca <16 x float>, align 64
  %17 = alloca i64, align 8
  %18 = alloca <16 x float>, align 64
  store ptr %0, ptr %2, align 8
  %19 = load ptr, ptr %2, align 8
  %20 = getelementptr inbounds nuw %struct.norm_args, ptr %19, i32 0, i32 5
  %21 = load i64, ptr %20, align 8
  store i64 %21, ptr %3, align 8
  %22 = load ptr, ptr %2, align 8
  %23 = getelementptr inbounds nuw %struct.norm_args, ptr %22, i32 0, i32 4
  %24 = load i64, ptr %23, align 8
  call void @thread_range(i64 noundef %24, ptr noundef %4, ptr noundef %5)
  %25 = load i64, ptr %4, align 8
  store i64 %25, ptr %6, align 8
  br label %26

26:                                               ; preds = %135, %1
  %27 = load i64, ptr %6, align 8
  %28 = load i64, ptr %5, align 8
  %29 = icmp slt i64 %27, %28
  br i1 %29, label %30, label %138

30:                                               ; preds = %26
  %31 = load ptr, ptr %2, align 8
  %32 = getelementptr inbounds nuw %struct.norm_args, ptr %31, i32 0, i32 0
  %33 = load ptr, ptr %32, align 8
  %34 = load i64, ptr %6, align 8
  %35 = load i64, ptr %3, align 8
  %36 = mul nsw i64 %34, %35
  %37 = getelementptr inbounds float, ptr %33, i64 %36
  store ptr %37, ptr %7, align 8
  %38 = load ptr, ptr %2, align 8
  %39 = getelementptr inbounds nuw %struct.norm_args, ptr %38, i32 0, i32 3
  %40 = load ptr, ptr %39, align 8
  %41 = load i64, ptr %6, align 8
  %42 = load i64, ptr %3, align 8
  %43 = mul nsw i64 %41, %42
  %44 = getelementptr inbounds float, ptr %40, i64 %43
  store ptr %44, ptr %8, align 8
  %45 = call <16 x float> @splat(float noundef 0.000000e+00)
  store <16 x float> %45, ptr %9, align 64
  %46 = call <16 x float> @splat(float noundef 0.000000e+00)
  store <16 x float> %46, ptr %10, align 64
  store i64 0, ptr %11, align 8
  br label %47

47:                                               ; preds = %58, %30
  %48 = load i64, ptr %11, align 8
  %49 = load i64, ptr %3, align 8
  %50 = icmp slt i64 %48, %49
  br i1 %50, label %51, label %61

51:                                               ; preds = %47
  %52 = load ptr, ptr %7, align 8
  %53 = load i64, ptr %11, align 8
  %54 = getelementptr inbounds float, ptr %52, i64 %53
  %55 = call <16 x float> @load(ptr noundef %54)
  %56 = load <16 x float>, ptr %9, align 64
  %57 = fadd <16 x float> %56, %55
  store <16 x float> %57, ptr %9, align 64
  br label %58

58:                                               ; preds = %51
  %59 = load i64, ptr %11, align 8
  %60 = add nsw i64 %59, 16
  store i64 %60, ptr %11, align 8
  br label %47, !llvm.loop !5

61:                                               ; preds = %47
  %62 = load <16 x float>, ptr %9, align 64
  %63 = call float @hsum(<16 x float> noundef %62)
  %64 = load i64, ptr %3, align 8
  %65 = sitofp i64 %64 to float
  %66 = fdiv float %63, %65
  %67 = call <16 x float> @splat(float noundef %66)
  store <16 x float> %67, ptr %12, align 64
  store i64 0, ptr %13, align 8
  br label %68

68:                                               ; preds = %83, %61
  %69 = load i64, ptr %13, align 8
  %70 = load i64, ptr %3, align 8
  %71 = icmp slt i64 %69, %70
  br i1 %71, label %72, label %86

72:                                               ; preds = %68
  %73 = load ptr, ptr %7, align 8
  %74 = load i64, ptr %13, align 8
  %75 = getelementptr inbounds float, ptr %73, i64 %74
  %76 = call <16 x float> @load(ptr noundef %75)
  %77 = load <16 x float>, ptr %12, align 64
  %78 = fsub <16 x float> %76, %77
  store <16 x float> %78, ptr %14, align 64
  %79 = load <16 x float>, ptr %14, align 64
  %80 = load <16 x float>, ptr %14, align 64
  %81 = load <16 x float>, ptr %10, align 64
  %82 = call <16 x float> @fma(<16 x float> noundef %79, <16 x float> noundef %80, <16 x float> noundef %81)
  store <16 x float> %82, ptr %10, align 64
  br label %83

83:                                               ; preds = %72
  %84 = load i64, ptr %13, align 8
  %85 = add nsw i64 %84, 16
  store i64 %85, ptr %13, align 8
  br label %68, !llvm.loop !7

86:                                               ; preds = %68
  %87 = load <16 x float>, ptr %10, align 64
  %88 = call float @hsum(<16 x float> noundef %87)
  %89 = load i64, ptr %3, align 8
  %90 = sitofp i64 %89 to float
  %91 = fdiv float %88, %90
  %92 = load ptr, ptr %2, align 8
  %93 = getelementptr inbounds nuw %struct.norm_args, ptr %92, i32 0, i32 6
  %94 = load double, ptr %93, align 8
  %95 = fptrunc double %94 to float
  %96 = fadd float %91, %95
  store float %96, ptr %15, align 4
  %97 = load float, ptr %15, align 4
  %98 = call float @llvm.sqrt.f32(float %97)
  %99 = fdiv float 1.000000e+00, %98
  %100 = call <16 x float> @splat(float noundef %99)
  store <16 x float> %100, ptr %16, align 64
  store i64 0, ptr %17, align 8
  br label %101

101:                                              ; preds = %131, %86
  %102 = load i64, ptr %17, align 8
  %103 = load i64, ptr %3, align 8
  %104 = icmp slt i64 %102, %103
  br i1 %104, label %105, label %134

105:                                              ; preds = %101
  %106 = load ptr, ptr %7, align 8
  %107 = load i64, ptr %17, align 8
  %108 = getelementptr inbounds float, ptr %106, i64 %107
  %109 = call <16 x float> @load(ptr noundef %108)
  %110 = load <16 x float>, ptr %12, align 64
  %111 = fsub <16 x float> %109, %110
  %112 = load <16 x float>, ptr %16, align 64
  %113 = fmul <16 x float> %111, %112
  store <16 x float> %113, ptr %18, align 64
  %114 = load ptr, ptr %8, align 8
  %115 = load i64, ptr %17, align 8
  %116 = getelementptr inbounds float, ptr %114, i64 %115
  %117 = load <16 x float>, ptr %18, align 64
  %118 = load ptr, ptr %2, align 8
  %119 = getelementptr inbounds nuw %struct.norm_args, ptr %118, i32 0, i32 1
  %120 = load ptr, ptr %119, align 8
  %121 = load i64, ptr %17, align 8
  %122 = getelementptr inbounds float, ptr %120, i64 %121
  %123 = call <16 x float> @load(ptr noundef %122)
  %124 = load ptr, ptr %2, align 8
  %125 = getelementptr inbounds nuw %struct.norm_args, ptr %124, i32 0, i32 2
  %126 = load ptr, ptr %125, align 8
  %127 = load i64, ptr %17, align 8
  %128 = getelementptr inbounds float, ptr %126, i64 %127
  %129 = call <16 x float> @load(ptr noundef %128)
  %130 = call <16 x float> @fma(<16 x float> noundef %117, <16 x float> noundef %123, <16 x float> noundef %129)
  call void @store(ptr noundef %116, <16 x float> noundef %130)
  br label %131

131:                                              ; preds = %105
  %132 = load i64, ptr %17, align 8
  %133 = add nsw i64 %132, 16
  store i64 %133, ptr %17, align 8
  br label %101, !llvm.loop !8

134:                                              ; preds = %101
  br label %135

135:                                              ; preds = %134
  %136 = load i64, ptr %6, align 8
  %137 = add nsw i64 %136, 1
  store i64 %137, ptr %6, align 8
  br label %26, !llvm.loop !9

138:                                              ; preds = %26
  ret void
}

define internal void @thread_range(i64 noundef %0, ptr noundef %1, ptr noundef %2) #1 {
  %4 = alloca i64, align 8
  %5 = alloca ptr, align 8
  %6 = alloca ptr, align 8
  %7 = alloca i64, align 8
  %8 = alloca i64, align 8
  store i64 %0, ptr %4, align 8
  store ptr %1, ptr %5, align 8
  store ptr %2, ptr %6, align 8
  %9 = call i32 @omp_get_thread_num()
  %10 = sext i32 %9 to i64
  store i64 %10, ptr %7, align 8
  %11 = call i32 @omp_get_num_threads()
  %12 = sext i32 %11 to i64
  store i64 %12, ptr %8, align 8
  %13 = load i64, ptr %4, align 8
  %14 = load i64, ptr %7, align 8
  %15 = mul nsw i64 %13, %14
  %16 = load i64, ptr %8, align 8
  %17 = sdiv i64 %15, %16
  %18 = load ptr, ptr %5, align 8
  store i64 %17, ptr %18, align 8
  %19 = load i64, ptr %4, align 8
  %20 = load i64, ptr %7, align 8
  %21 = add nsw i64 %20, 1
  %22 = mul nsw i64 %19, %21
  %23 = load i64, ptr %8, align 8
  %24 = sdiv i64 %22, %23
  %25 = load ptr, ptr %6, align 8
  store i64 %24, ptr %25, align 8
  ret void
}

define internal <16 x float> @splat(float noundef %0) #2 {
  %2 = alloca float, align 4
  store float %0, ptr %2, align 4
  %3 = load float, ptr %2, align 4
  %4 = insertelement <16 x float> poison, float %3, i64 0
  %5 = shufflevector <16 x float> %4, <16 x float> poison, <16 x i32> zeroinitializer
  ret <16 x float> %5
}

define internal <16 x float> @load(ptr noundef %0) #2 {
  %2 = alloca ptr, align 8
  store ptr %0, ptr %2, align 8
  %3 = load ptr, ptr %2, align 8
  %4 = getelementptr inbounds nuw %struct.anon.0, ptr %3, i32 0, i32 0
  %5 = load <16 x float>, ptr %4, align 1
  ret <16 x float> %5
}

define internal float @hsum(<16 x float> noundef %0) #2 {
  %2 = alloca <16 x float>, align 64
  store <16 x float> %0, ptr %2, align 64
  %3 = load <16 x float>, ptr %2, align 64
  %4 = load <16 x float>, ptr %2, align 64
  %5 = shufflevector <16 x float> %3, <16 x float> %4, <16 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7, i32 16, i32 17, i32 18, i32 19, i32 20, i32 21, i32 22, i32 23>
  %6 = load <16 x float>, ptr %2, align 64
  %7 = load <16 x float>, ptr %2, align 64
  %8 = shufflevector <16 x float> %6, <16 x float> %7, <16 x i32> <i32 8, i32 9, i32 10, i32 11, i32 12, i32 13, i32 14, i32 15, i32 24, i32 25, i32 26, i32 27, i32 28, i32 29, i32 30, i32 31>
  %9 = fadd <16 x float> %5, %8
  store <16 x float> %9, ptr %2, align 64
  %10 = load <16 x float>, ptr %2, align 64
  %11 = load <16 x float>, ptr %2, align 64
  %12 = shufflevector <16 x float> %10, <16 x float> %11, <16 x i32> <i32 0, i32 1, i32 2, i32 3, i32 8, i32 9, i32 10, i32 11, i32 16, i32 17, i32 18, i32 19, i32 24, i32 25, i32 26, i32 27>
  %13 = load <16 x float>, ptr %2, align 64
  %14 = load <16 x float>, ptr %2, align 64
  %15 = shufflevector <16 x float> %13, <16 x float> %14, <16 x i32> <i32 4, i32 5, i32 6, i32 7, i32 12, i32 13, i32 14, i32 15, i32 20, i32 21, i32 22, i32 23, i32 28, i32 29, i32 30, i32 31>
  %16 = fadd <16 x float> %12, %15
  store <16 x float> %16, ptr %2, align 64
  %17 = load <16 x float>, ptr %2, align 64
  %18 = load <16 x float>, ptr %2, align 64
  %19 = shufflevector <16 x float> %17, <16 x float> %18, <16 x i32> <i32 0, i32 1, i32 4, i32 5, i32 8, i32 9, i32 12, i32 13, i32 16, i32 17, i32 20, i32 21, i32 24, i32 25, i32 28, i32 29>
  %20 = load <16 x float>, ptr %2, align 64
  %21 = load <16 x float>, ptr %2, align 64
  %22 = shufflevector <16 x float> %20, <16 x float> %21, <16 x i32> <i32 2, i32 3, i32 6, i32 7, i32 10, i32 11, i32 14, i32 15, i32 18, i32 19, i32 22, i32 23, i32 26, i32 27, i32 30, i32 31>
  %23 = fadd <16 x float> %19, %22
  store <16 x float> %23, ptr %2, align 64
  %24 = load <16 x float>, ptr %2, align 64
  %25 = load <16 x float>, ptr %2, align 64
  %26 = shufflevector <16 x float> %24, <16 x float> %25, <16 x i32> <i32 0, i32 2, i32 4, i32 6, i32 8, i32 10, i32 12, i32 14, i32 16, i32 18, i32 20, i32 22, i32 24, i32 26, i32 28, i32 30>
  %27 = load <16 x float>, ptr %2, align 64
  %28 = load <16 x float>, ptr %2, align 64
  %29 = shufflevector <16 x float> %27, <16 x float> %28, <16 x i32> <i32 1, i32 3, i32 5, i32 7, i32 9, i32 11, i32 13, i32 15, i32 17, i32 19, i32 21, i32 23, i32 25, i32 27, i32 29, i32 31>
  %30 = fadd <16 x float> %26, %29
  %31 = extractelement <16 x float> %30, i32 0
  ret float %31
}

define internal <16 x float> @fma(<16 x float> noundef %0, <16 x float> noundef %1, <16 x float> noundef %2) #2 {
  %4 = alloca <16 x float>, align 64
  %5 = alloca <16 x float>, align 64
  %6 = alloca <16 x float>, align 64
  store <16 x float> %0, ptr %4, align 64
  store <16 x float> %1, ptr %5, align 64
  store <16 x float> %2, ptr %6, align 64
  %7 = load <16 x float>, ptr %4, align 64
  %8 = load <16 x float>, ptr %5, align 64
  %9 = load <16 x float>, ptr %6, align 64
  %10 = call <16 x float> @llvm.fma.v16f32(<16 x float> %7, <16 x float> %8, <16 x float> %9)
  ret <16 x float> %10
}

declare float @llvm.sqrt.f32(float) #3

define internal void @store(ptr noundef %0, <16 x float> noundef %1) #2 {
  %3 = alloca ptr, align 8
  %4 = alloca <16 x float>, align 64
  store ptr %0, ptr %3, align 8
  store <16 x float> %1, ptr %4, align 64
  %5 = load <16 x float>, ptr %4, align 64
  %6 = load ptr, ptr %3, align 8
  %7 = getelementptr inbounds nuw %struct.anon.1, ptr %6, i32 0, i32 0
  store <16 x float> %5, ptr %7, align 1
  ret void
}

define dso_local void @apply_rotary(ptr noundef %0) #0 {
  %2 = alloca ptr, align 8
  %3 = alloca <16 x float>, align 64
  %4 = alloca i64, align 8
  %5 = alloca i64, align 8
  %6 = alloca i64, align 8
  %7 = alloca i64, align 8
  %8 = alloca i64, align 8
  %9 = alloca i64, align 8
  %10 = alloca ptr, align 8
  %11 = alloca ptr, align 8
  %12 = alloca i64, align 8
  %13 = alloca <16 x float>, align 64
  %14 = alloca <16 x float>, align 64
  %15 = alloca <16 x float>, align 64
  %16 = alloca <16 x float>, align 64
  %17 = alloca <16 x float>, align 64
  store ptr %0, ptr %2, align 8
  store <16 x float> <float -1.000000e+00, float 1.000000e+00, float -1.000000e+00, float 1.000000e+00, float -1.000000e+00, float 1.000000e+00, float -1.000000e+00, float 1.000000e+00, float -1.000000e+00, float 1.000000e+00, float -1.000000e+00, float 1.000000e+00, float -1.000000e+00, float 1.000000e+00, float -1.000000e+00, float 1.000000e+00>, ptr %3, align 64
  %18 = load ptr, ptr %2, align 8
  %19 = getelementptr inbounds nuw %struct.apply_rotary_args, ptr %18, i32 0, i32 3
  %20 = load i64, ptr %19, align 8
  %21 = mul nsw i64 2, %20
  store i64 %21, ptr %4, align 8
  %22 = load ptr, ptr %2, align 8
  %23 = getelementptr inbounds nuw %struct.apply_rotary_args, ptr %22, i32 0, i32 2
  %24 = load i64, ptr %23, align 8
  %25 = load i64, ptr %4, align 8
  %26 = mul nsw i64 %24, %25
  call void @thread_range(i64 noundef %26, ptr noundef %5, ptr noundef %6)
  %27 = load i64, ptr %5, align 8
  store i64 %27, ptr %7, align 8
  br label %28

28:                                               ; preds = %96, %1
  %29 = load i64, ptr %7, align 8
  %30 = load i64, ptr %6, align 8
  %31 = icmp slt i64 %29, %30
  br i1 %31, label %32, label %99

32:                                               ; preds = %28
  %33 = load i64, ptr %7, align 8
  %34 = load i64, ptr %4, align 8
  %35 = sdiv i64 %33, %34
  store i64 %35, ptr %8, align 8
  %36 = load i64, ptr %7, align 8
  %37 = load i64, ptr %4, align 8
  %38 = srem i64 %36, %37
  store i64 %38, ptr %9, align 8
  %39 = load ptr, ptr %2, align 8
  %40 = getelementptr inbounds nuw %struct.apply_rotary_args, ptr %39, i32 0, i32 0
  %41 = load ptr, ptr %40, align 8
  %42 = load i64, ptr %8, align 8
  %43 = mul nsw i64 %42, 3
  %44 = load ptr, ptr %2, align 8
  %45 = getelementptr inbounds nuw %struct.apply_rotary_args, ptr %44, i32 0, i32 3
  %46 = load i64, ptr %45, align 8
  %47 = mul nsw i64 %43, %46
  %48 = load i64, ptr %9, align 8
  %49 = add nsw i64 %47, %48
  %50 = load i64, ptr @HEAD_WIDTH, align 8
  %51 = mul nsw i64 %49, %50
  %52 = getelementptr inbounds float, ptr %41, i64 %51
  store ptr %52, ptr %10, align 8
  %53 = load ptr, ptr %2, align 8
  %54 = getelementptr inbounds nuw %struct.apply_rotary_args, ptr %53, i32 0, i32 1
  %55 = load ptr, ptr %54, align 8
  %56 = load i64, ptr %8, align 8
  %57 = load i64, ptr @HEAD_WIDTH, align 8
  %58 = mul nsw i64 %56, %57
  %59 = getelementptr inbounds float, ptr %55, i64 %58
  store ptr %59, ptr %11, align 8
  store i64 0, ptr %12, align 8
  br label %60

60:                                               ; preds = %92, %32
  %61 = load i64, ptr %12, align 8
  %62 = load i64, ptr @HEAD_WIDTH, align 8
  %63 = icmp slt i64 %61, %62
  br i1 %63, label %64, label %95

64:                                               ; preds = %60
  %65 = load ptr, ptr %10, align 8
  %66 = load i64, ptr %12, align 8
  %67 = getelementptr inbounds float, ptr %65, i64 %66
  %68 = call <16 x float> @load(ptr noundef %67)
  store <16 x float> %68, ptr %13, align 64
  %69 = load ptr, ptr %11, align 8
  %70 = load i64, ptr %12, align 8
  %71 = getelementptr inbounds float, ptr %69, i64 %70
  %72 = call <16 x float> @load(ptr noundef %71)
  store <16 x float> %72, ptr %14, align 64
  %73 = load <16 x float>, ptr %14, align 64
  %74 = load <16 x float>, ptr %14, align 64
  %75 = shufflevector <16 x float> %73, <16 x float> %74, <16 x i32> <i32 0, i32 0, i32 2, i32 2, i32 4, i32 4, i32 6, i32 6, i32 8, i32 8, i32 10, i32 10, i32 12, i32 12, i32 14, i32 14>
  store <16 x float> %75, ptr %15, align 64
  %76 = load <16 x float>, ptr %14, align 64
  %77 = load <16 x float>, ptr %14, align 64
  %78 = shufflevector <16 x float> %76, <16 x float> %77, <16 x i32> <i32 1, i32 1, i32 3, i32 3, i32 5, i32 5, i32 7, i32 7, i32 9, i32 9, i32 11, i32 11, i32 13, i32 13, i32 15, i32 15>
  store <16 x float> %78, ptr %16, align 64
  %79 = load <16 x float>, ptr %13, align 64
  %80 = load <16 x float>, ptr %13, align 64
  %81 = shufflevector <16 x float> %79, <16 x float> %80, <16 x i32> <i32 1, i32 0, i32 3, i32 2, i32 5, i32 4, i32 7, i32 6, i32 9, i32 8, i32 11, i32 10, i32 13, i32 12, i32 15, i32 14>
  store <16 x float> %81, ptr %17, align 64
  %82 = load ptr, ptr %10, align 8
  %83 = load i64, ptr %12, align 8
  %84 = getelementptr inbounds float, ptr %82, i64 %83
  %85 = load <16 x float>, ptr %13, align 64
  %86 = load <16 x float>, ptr %15, align 64
  %87 = load <16 x float>, ptr %17, align 64
  %88 = fmul <16 x float> %87, <float -1.000000e+00, float 1.000000e+00, float -1.000000e+00, float 1.000000e+00, float -1.000000e+00, float 1.000000e+00, float -1.000000e+00, float 1.000000e+00, float -1.000000e+00, float 1.000000e+00, float -1.000000e+00, float 1.000000e+00, float -1.000000e+00, float 1.000000e+00, float -1.000000e+00, float 1.000000e+00>
  %89 = load <16 x float>, ptr %16, align 64
  %90 = fmul <16 x float> %88, %89
  %91 = call <16 x float> @fma(<16 x float> noundef %85, <16 x float> noundef %86, <16 x float> noundef %90)
  call void @store(ptr noundef %84, <16 x float> noundef %91)
  br label %92

92:                                               ; preds = %64
  %93 = load i64, ptr %12, align 8
  %94 = add nsw i64 %93, 16
  store i64 %94, ptr %12, align 8
  br label %60, !llvm.loop !10

95:                                               ; preds = %60
  br label %96

96:                                               ; preds = %95
  %97 = load i64, ptr %7, align 8
  %98 = add nsw i64 %97, 1
  store i64 %98, ptr %7, align 8
  br label %28, !llvm.loop !12

99:                                               ; preds = %28
  ret void
}

define dso_local void @pack_rows(ptr noundef %0) #0 {
  %2 = alloca ptr, align 8
  %3 = alloca i64, align 8
  %4 = alloca i64, align 8
  %5 = alloca i64, align 8
  %6 = alloca i64, align 8
  %7 = alloca i64, align 8
  %8 = alloca ptr, align 8
  %9 = alloca <16 x float>, align 64
  %10 = alloca <16 x float>, align 64
  %11 = alloca <16 x float>, align 64
  %12 = alloca float, align 4
  %13 = alloca i64, align 8
  %14 = alloca i64, align 8
  %15 = alloca i64, align 8
  %16 = alloca <16 x i16>, align 32
  store ptr %0, ptr %2, align 8
  %17 = load ptr, ptr %2, align 8
  %18 = getelementptr inbounds nuw %struct.pack_rows_args, ptr %17, i32 0, i32 4
  %19 = load i64, ptr %18, align 8
  store i64 %19, ptr %3, align 8
  %20 = load i64, ptr @X_IS_INT16, align 8
  %21 = icmp ne i64 %20, 0
  %22 = zext i1 %21 to i64
  %23 = select i1 %21, i32 32, i32 16
  %24 = sext i32 %23 to i64
  store i64 %24, ptr %4, align 8
  %25 = load ptr, ptr %2, align 8
  %26 = getelementptr inbounds nuw %struct.pack_rows_args, ptr %25, i32 0, i32 3
  %27 = load i64, ptr %26, align 8
  call void @thread_range(i64 noundef %27, ptr noundef %5, ptr noundef %6)
  %28 = load i64, ptr %5, align 8
  store i64 %28, ptr %7, align 8
  br label %29

29:                                               ; preds = %135, %1
  %30 = load i64, ptr %7, align 8
  %31 = load i64, ptr %6, align 8
  %32 = icmp slt i64 %30, %31
  br i1 %32, label %33, label %138

33:                                               ; preds = %29
  %34 = load ptr, ptr %2, align 8
  %35 = getelementptr inbounds nuw %struct.pack_rows_args, ptr %34, i32 0, i32 0
  %36 = load ptr, ptr %35, align 8
  %37 = load i64, ptr %7, align 8
  %38 = load i64, ptr %3, align 8
  %39 = mul nsw i64 %37, %38
  %40 = getelementptr inbounds float, ptr %36, i64 %39
  store ptr %40, ptr %8, align 8
  %41 = call <16 x float> @splat(float noundef 1.000000e+00)
  store <16 x float> %41, ptr %9, align 64
  %42 = call <16 x float> @splat(float noundef 0.000000e+00)
  store <16 x float> %42, ptr %10, align 64
  %43 = call <16 x float> @splat(float noundef 0.000000e+00)
  store <16 x float> %43, ptr %11, align 64
  store float 1.000000e+00, ptr %12, align 4
  %44 = load i64, ptr @X_IS_INT16, align 8
  %45 = icmp ne i64 %44, 0
  br i1 %45, label %46, label %73

46:                                               ; preds = %33
  store i64 0, ptr %13, align 8
  br label %47

47:                                               ; preds = %66, %46
  %48 = load i64, ptr %13, align 8
  %49 = load i64, ptr %3, align 8
  %50 = icmp slt i64 %48, %49
  br i1 %50, label %51, label %69

51:                                               ; preds = %47
  %52 = load <16 x float>, ptr %10, align 64
  %53 = load ptr, ptr %8, align 8
  %54 = load i64, ptr %13, align 8
  %55 = getelementptr inbounds float, ptr %53, i64 %54
  %56 = call <16 x float> @load(ptr noundef %55)
  %57 = call <16 x float> @magnitude(<16 x float> noundef %56)
  %58 = call <16 x float> @larger(<16 x float> noundef %52, <16 x float> noundef %57)
  store <16 x float> %58, ptr %10, align 64
  %59 = load ptr, ptr %8, align 8
  %60 = load i64, ptr %13, align 8
  %61 = getelementptr inbounds float, ptr %59, i64 %60
  %62 = call <16 x float> @load(ptr noundef %61)
  %63 = call <16 x float> @splat(float noundef 0.000000e+00)
  %64 = load <16 x float>, ptr %11, align 64
  %65 = call <16 x float> @fma(<16 x float> noundef %62, <16 x float> noundef %63, <16 x float> noundef %64)
  store <16 x float> %65, ptr %11, align 64
  br label %66

66:                                               ; preds = %51
  %67 = load i64, ptr %13, align 8
  %68 = add nsw i64 %67, 16
  store i64 %68, ptr %13, align 8
  br label %47, !llvm.loop !13

69:                                               ; preds = %47
  %70 = load <16 x float>, ptr %10, align 64
  %71 = load <16 x float>, ptr %11, align 64
  %72 = call float @quant_step(<16 x float> noundef %70, <16 x float> noundef %71, float noundef 3.276700e+04, ptr noundef %9)
  store float %72, ptr %12, align 4
  br label %73

73:                                               ; preds = %69, %33
  %74 = load float, ptr %12, align 4
  %75 = load ptr, ptr %2, align 8
  %76 = getelementptr inbounds nuw %struct.pack_rows_args, ptr %75, i32 0, i32 2
  %77 = load ptr, ptr %76, align 8
  %78 = load i64, ptr %7, align 8
  %79 = getelementptr inbounds float, ptr %77, i64 %78
  store float %74, ptr %79, align 4
  store i64 0, ptr %14, align 8
  br label %80

80:                                               ; preds = %131, %73
  %81 = load i64, ptr %14, align 8
  %82 = load i64, ptr %3, align 8
  %83 = icmp slt i64 %81, %82
  br i1 %83, label %84, label %134

84:                                               ; preds = %80
  %85 = load i64, ptr %14, align 8
  %86 = load i64, ptr %4, align 8
  %87 = sdiv i64 %85, %86
  %88 = load i64, ptr %4, align 8
  %89 = mul nsw i64 %87, %88
  %90 = load ptr, ptr %2, align 8
  %91 = getelementptr inbounds nuw %struct.pack_rows_args, ptr %90, i32 0, i32 3
  %92 = load i64, ptr %91, align 8
  %93 = mul nsw i64 %89, %92
  %94 = load i64, ptr %7, align 8
  %95 = load i64, ptr %4, align 8
  %96 = mul nsw i64 %94, %95
  %97 = add nsw i64 %93, %96
  %98 = load i64, ptr %14, align 8
  %99 = load i64, ptr %4, align 8
  %100 = srem i64 %98, %99
  %101 = add nsw i64 %97, %100
  store i64 %101, ptr %15, align 8
  %102 = load i64, ptr @X_IS_INT16, align 8
  %103 = icmp ne i64 %102, 0
  br i1 %103, label %104, label %120

104:                                              ; preds = %84
  %105 = load ptr, ptr %8, align 8
  %106 = load i64, ptr %14, align 8
  %107 = getelementptr inbounds float, ptr %105, i64 %106
  %108 = call <16 x float> @load(ptr noundef %107)
  %109 = load <16 x float>, ptr %9, align 64
  %110 = fmul <16 x float> %108, %109
  %111 = call <16 x i32> @round_to_int(<16 x float> noundef %110)
  %112 = trunc <16 x i32> %111 to <16 x i16>
  store <16 x i16> %112, ptr %16, align 32
  %113 = load <16 x i16>, ptr %16, align 32
  %114 = load ptr, ptr %2, align 8
  %115 = getelementptr inbounds nuw %struct.pack_rows_args, ptr %114, i32 0, i32 1
  %116 = load ptr, ptr %115, align 8
  %117 = load i64, ptr %15, align 8
  %118 = getelementptr inbounds i16, ptr %116, i64 %117
  %119 = getelementptr inbounds nuw %struct.anon, ptr %118, i32 0, i32 0
  store <16 x i16> %113, ptr %119, align 1
  br label %130

120:                                              ; preds = %84
  %121 = load ptr, ptr %2, align 8
  %122 = getelementptr inbounds nuw %struct.pack_rows_args, ptr %121, i32 0, i32 1
  %123 = load ptr, ptr %122, align 8
  %124 = load i64, ptr %15, align 8
  %125 = getelementptr inbounds float, ptr %123, i64 %124
  %126 = load ptr, ptr %8, align 8
  %127 = load i64, ptr %14, align 8
  %128 = getelementptr inbounds float, ptr %126, i64 %127
  %129 = call <16 x float> @load(ptr noundef %128)
  call void @store(ptr noundef %125, <16 x float> noundef %129)
  br label %130

130:                                              ; preds = %120, %104
  br label %131

131:                                              ; preds = %130
  %132 = load i64, ptr %14, align 8
  %133 = add nsw i64 %132, 16
  store i64 %133, ptr %14, align 8
  br label %80, !llvm.loop !14

134:                                              ; preds = %80
  br label %135

135:                                              ; preds = %134
  %136 = load i64, ptr %7, align 8
  %137 = add nsw i64 %136, 1
  store i64 %137, ptr %7, align 8
  br label %29, !llvm.loop !15

138:                                              ; preds = %29
  ret void
}

define internal <16 x float> @larger(<16 x float> noundef %0, <16 x float> noundef %1) #2 {
  %3 = alloca <16 x float>, align 64
  %4 = alloca <16 x float>, align 64
  store <16 x float> %0, ptr %3, align 64
  store <16 x float> %1, ptr %4, align 64
  %5 = load <16 x float>, ptr %3, align 64
  %6 = load <16 x float>, ptr %4, align 64
  %7 = fcmp ogt <16 x float> %5, %6
  %8 = sext <16 x i1> %7 to <16 x i32>
  %9 = load <16 x float>, ptr %3, align 64
  %10 = load <16 x float>, ptr %4, align 64
  %11 = icmp slt <16 x i32> %8, zeroinitializer
  %12 = select <16 x i1> %11, <16 x float> %9, <16 x float> %10
  ret <16 x float> %12
}

define internal <16 x float> @magnitude(<16 x float> noundef %0) #2 {
  %2 = alloca <16 x float>, align 64
  store <16 x float> %0, ptr %2, align 64
  %3 = load <16 x float>, ptr %2, align 64
  %4 = call <16 x float> @llvm.fabs.v16f32(<16 x float> %3)
  ret <16 x float> %4
}

define internal float @quant_step(<16 x float> noundef %0, <16 x float> noundef %1, float noundef %2, ptr noundef %3) #2 {
  %5 = alloca <16 x float>, align 64
  %6 = alloca <16 x float>, align 64
  %7 = alloca float, align 4
  %8 = alloca ptr, align 8
  %9 = alloca float, align 4
  store <16 x float> %0, ptr %5, align 64
  store <16 x float> %1, ptr %6, align 64
  store float %2, ptr %7, align 4
  store ptr %3, ptr %8, align 8
  %10 = load <16 x float>, ptr %5, align 64
  %11 = call float @hmax(<16 x float> noundef %10)
  store float %11, ptr %9, align 4
  %12 = load float, ptr %7, align 4
  %13 = load float, ptr %9, align 4
  %14 = fcmp ogt float %13, 0x39B4484C00000000
  br i1 %14, label %15, label %17

15:                                               ; preds = %4
  %16 = load float, ptr %9, align 4
  br label %18

17:                                               ; preds = %4
  br label %18

18:                                               ; preds = %17, %15
  %19 = phi float [ %16, %15 ], [ 0x39B4484C00000000, %17 ]
  %20 = fdiv float %12, %19
  %21 = call <16 x float> @splat(float noundef %20)
  %22 = load ptr, ptr %8, align 8
  store <16 x float> %21, ptr %22, align 64
  %23 = load float, ptr %9, align 4
  %24 = load float, ptr %7, align 4
  %25 = fdiv float %23, %24
  %26 = load <16 x float>, ptr %6, align 64
  %27 = call float @hsum(<16 x float> noundef %26)
  %28 = fadd float %25, %27
  ret float %28
}

define internal <16 x i32> @round_to_int(<16 x float> noundef %0) #2 {
  %2 = alloca <16 x float>, align 64
  %3 = alloca <16 x float>, align 64
  store <16 x float> %0, ptr %2, align 64
  %4 = call <16 x float> @splat(float noundef 0x4168000000000000)
  store <16 x float> %4, ptr %3, align 64
  %5 = load <16 x float>, ptr %2, align 64
  %6 = load <16 x float>, ptr %3, align 64
  %7 = fadd <16 x float> %5, %6
  %8 = bitcast <16 x float> %7 to <16 x i32>
  %9 = load <16 x float>, ptr %3, align 64
  %10 = bitcast <16 x float> %9 to <16 x i32>
  %11 = sub <16 x i32> %8, %10
  ret <16 x i32> %11
}

define dso_local void @matmul(ptr noundef %0) #0 {
  %2 = alloca ptr, align 8
  %3 = alloca %struct.matmul_args, align 8
  %4 = alloca i64, align 8
  %5 = alloca i64, align 8
  %6 = alloca i64, align 8
  %7 = alloca i64, align 8
  %8 = alloca i64, align 8
  %9 = alloca i64, align 8
  %10 = alloca [128 x <16 x float>], align 64
  %11 = alloca <16 x float>, align 64
  %12 = alloca i64, align 8
  %13 = alloca i64, align 8
  %14 = alloca i64, align 8
  %15 = alloca i64, align 8
  %16 = alloca [16 x <16 x float>], align 64
  %17 = alloca ptr, align 8
  %18 = alloca i64, align 8
  %19 = alloca i64, align 8
  %20 = alloca i64, align 8
  %21 = alloca ptr, align 8
  store ptr %0, ptr %2, align 8
  %22 = load ptr, ptr %2, align 8
  call void @llvm.memcpy.p0.p0.i64(ptr align 8 %3, ptr align 8 %22, i64 64, i1 false)
  %23 = load i64, ptr @N_ROWS, align 8
  %24 = load i64, ptr @N_OUTPUTS, align 8
  %25 = mul nsw i64 %23, %24
  store i64 %25, ptr %4, align 8
  %26 = load i64, ptr @N_OUTPUTS, align 8
  %27 = sdiv i64 16, %26
  store i64 %27, ptr %5, align 8
  %28 = load i64, ptr @X_IS_INT16, align 8
  %29 = icmp ne i64 %28, 0
  %30 = zext i1 %29 to i64
  %31 = select i1 %29, i32 2, i32 4
  %32 = sdiv i32 2048, %31
  %33 = sext i32 %32 to i64
  store i64 %33, ptr %6, align 8
  %34 = getelementptr inbounds nuw %struct.matmul_args, ptr %3, i32 0, i32 7
  %35 = load i64, ptr %34, align 8
  store i64 %35, ptr %7, align 8
  %36 = call <16 x float> @splat(float noundef 1.000000e+00)
  store <16 x float> %36, ptr %11, align 64
  store i64 0, ptr %12, align 8
  br label %37

37:                                               ; preds = %52, %1
  %38 = load i64, ptr %12, align 8
  %39 = load i64, ptr %4, align 8
  %40 = icmp slt i64 %38, %39
  br i1 %40, label %41, label %55

41:                                               ; preds = %37
  %42 = getelementptr inbounds nuw %struct.matmul_args, ptr %3, i32 0, i32 1
  %43 = load ptr, ptr %42, align 8
  %44 = load i64, ptr %12, align 8
  %45 = load i64, ptr @N_OUTPUTS, align 8
  %46 = sdiv i64 %44, %45
  %47 = getelementptr inbounds float, ptr %43, i64 %46
  %48 = load float, ptr %47, align 4
  %49 = load i64, ptr %12, align 8
  %50 = load <16 x float>, ptr %11, align 64
  %51 = insertelement <16 x float> %50, float %48, i64 %49
  store <16 x float> %51, ptr %11, align 64
  br label %52

52:                                               ; preds = %41
  %53 = load i64, ptr %12, align 8
  %54 = add nsw i64 %53, 1
  store i64 %54, ptr %12, align 8
  br label %37, !llvm.loop !16

55:                                               ; preds = %37
  %56 = getelementptr inbounds nuw %struct.matmul_args, ptr %3, i32 0, i32 6
  %57 = load i64, ptr %56, align 8
  %58 = load i64, ptr @HAS_GELU, align 8
  %59 = icmp ne i64 %58, 0
  br i1 %59, label %60, label %61

60:                                               ; preds = %55
  br label %63

61:                                               ; preds = %55
  %62 = load i64, ptr @N_OUTPUTS, align 8
  br label %63

63:                                               ; preds = %61, %60
  %64 = phi i64 [ 16, %60 ], [ %62, %61 ]
  %65 = sdiv i64 %57, %64
  call void @thread_range(i64 noundef %65, ptr noundef %8, ptr noundef %9)
  %66 = load i64, ptr @HAS_GELU, align 8
  %67 = icmp ne i64 %66, 0
  br i1 %67, label %68, label %75

68:                                               ; preds = %63
  %69 = load i64, ptr %5, align 8
  %70 = load i64, ptr %8, align 8
  %71 = mul nsw i64 %70, %69
  store i64 %71, ptr %8, align 8
  %72 = load i64, ptr %5, align 8
  %73 = load i64, ptr %9, align 8
  %74 = mul nsw i64 %73, %72
  store i64 %74, ptr %9, align 8
  br label %75

75:                                               ; preds = %68, %63
  %76 = load i64, ptr %8, align 8
  store i64 %76, ptr %13, align 8
  br label %77

77:                                               ; preds = %201, %75
  %78 = load i64, ptr %13, align 8
  %79 = load i64, ptr %9, align 8
  %80 = icmp slt i64 %78, %79
  br i1 %80, label %81, label %205

81:                                               ; preds = %77
  store i64 0, ptr %14, align 8
  br label %82

82:                                               ; preds = %168, %81
  %83 = load i64, ptr %14, align 8
  %84 = load i64, ptr %7, align 8
  %85 = icmp slt i64 %83, %84
  br i1 %85, label %86, label %172

86:                                               ; preds = %82
  %87 = load i64, ptr %13, align 8
  store i64 %87, ptr %15, align 8
  br label %88

88:                                               ; preds = %164, %86
  %89 = load i64, ptr %15, align 8
  %90 = load i64, ptr %13, align 8
  %91 = load i64, ptr %5, align 8
  %92 = add nsw i64 %90, %91
  %93 = load i64, ptr %9, align 8
  %94 = call i64 @smaller(i64 noundef %92, i64 noundef %93)
  %95 = icmp slt i64 %89, %94
  br i1 %95, label %96, label %167

96:                                               ; preds = %88
  %97 = getelementptr inbounds [128 x <16 x float>], ptr %10, i64 0, i64 0
  %98 = load i64, ptr %15, align 8
  %99 = load i64, ptr %13, align 8
  %100 = sub nsw i64 %98, %99
  %101 = load i64, ptr %4, align 8
  %102 = mul nsw i64 %100, %101
  %103 = getelementptr inbounds <16 x float>, ptr %97, i64 %102
  store ptr %103, ptr %17, align 8
  store i64 0, ptr %18, align 8
  br label %104

104:                                              ; preds = %122, %96
  %105 = load i64, ptr %18, align 8
  %106 = load i64, ptr %4, align 8
  %107 = icmp slt i64 %105, %106
  br i1 %107, label %108, label %125

108:                                              ; preds = %104
  %109 = load i64, ptr %14, align 8
  %110 = icmp sgt i64 %109, 0
  br i1 %110, label %111, label %116

111:                                              ; preds = %108
  %112 = load ptr, ptr %17, align 8
  %113 = load i64, ptr %18, align 8
  %114 = getelementptr inbounds <16 x float>, ptr %112, i64 %113
  %115 = load <16 x float>, ptr %114, align 64
  br label %118

116:                                              ; preds = %108
  %117 = call <16 x float> @splat(float noundef 0.000000e+00)
  br label %118

118:                                              ; preds = %116, %111
  %119 = phi <16 x float> [ %115, %111 ], [ %117, %116 ]
  %120 = load i64, ptr %18, align 8
  %121 = getelementptr inbounds [16 x <16 x float>], ptr %16, i64 0, i64 %120
  store <16 x float> %119, ptr %121, align 64
  br label %122

122:                                              ; preds = %118
  %123 = load i64, ptr %18, align 8
  %124 = add nsw i64 %123, 1
  store i64 %124, ptr %18, align 8
  br label %104, !llvm.loop !17

125:                                              ; preds = %104
  %126 = getelementptr inbounds [16 x <16 x float>], ptr %16, i64 0, i64 0
  %127 = load i64, ptr %15, align 8
  %128 = load i64, ptr @N_OUTPUTS, align 8
  %129 = mul nsw i64 %127, %128
  %130 = load i64, ptr %14, align 8
  %131 = load i64, ptr %14, align 8
  %132 = load i64, ptr %6, align 8
  %133 = add nsw i64 %131, %132
  %134 = load i64, ptr %7, align 8
  %135 = call i64 @smaller(i64 noundef %133, i64 noundef %134)
  call void @add_products(ptr noundef %126, ptr noundef %3, i64 noundef %129, i64 noundef %130, i64 noundef %135)
  %136 = load i64, ptr %14, align 8
  %137 = load i64, ptr %6, align 8
  %138 = add nsw i64 %136, %137
  %139 = load i64, ptr %7, align 8
  %140 = icmp slt i64 %138, %139
  br i1 %140, label %141, label %157

141:                                              ; preds = %125
  store i64 0, ptr %19, align 8
  br label %142

142:                                              ; preds = %153, %141
  %143 = load i64, ptr %19, align 8
  %144 = load i64, ptr %4, align 8
  %145 = icmp slt i64 %143, %144
  br i1 %145, label %146, label %156

146:                                              ; preds = %142
  %147 = load i64, ptr %19, align 8
  %148 = getelementptr inbounds [16 x <16 x float>], ptr %16, i64 0, i64 %147
  %149 = load <16 x float>, ptr %148, align 64
  %150 = load ptr, ptr %17, align 8
  %151 = load i64, ptr %19, align 8
  %152 = getelementptr inbounds <16 x float>, ptr %150, i64 %151
  store <16 x float> %149, ptr %152, align 64
  br label %153

153:                                              ; preds = %146
  %154 = load i64, ptr %19, align 8
  %155 = add nsw i64 %154, 1
  store i64 %155, ptr %19, align 8
  br label %142, !llvm.loop !18

156:                                              ; preds = %142
  br label %163

157:                                              ; preds = %125
  %158 = getelementptr inbounds [16 x <16 x float>], ptr %16, i64 0, i64 0
  %159 = load <16 x float>, ptr %11, align 64
  %160 = load i64, ptr %15, align 8
  %161 = load i64, ptr @N_OUTPUTS, align 8
  %162 = mul nsw i64 %160, %161
  call void @store_outputs(ptr noundef %158, <16 x float> noundef %159, ptr noundef %3, i64 noundef %162)
  br label %163

163:                                              ; preds = %157, %156
  br label %164

164:                                              ; preds = %163
  %165 = load i64, ptr %15, align 8
  %166 = add nsw i64 %165, 1
  store i64 %166, ptr %15, align 8
  br label %88, !llvm.loop !19

167:                                              ; preds = %88
  br label %168

168:                                              ; preds = %167
  %169 = load i64, ptr %6, align 8
  %170 = load i64, ptr %14, align 8
  %171 = add nsw i64 %170, %169
  store i64 %171, ptr %14, align 8
  br label %82, !llvm.loop !20

172:                                              ; preds = %82
  %173 = load i64, ptr @HAS_GELU, align 8
  %174 = icmp ne i64 %173, 0
  br i1 %174, label %175, label %200

175:                                              ; preds = %172
  store i64 0, ptr %20, align 8
  br label %176

176:                                              ; preds = %196, %175
  %177 = load i64, ptr %20, align 8
  %178 = load i64, ptr @N_ROWS, align 8
  %179 = icmp slt i64 %177, %178
  br i1 %179, label %180, label %199

180:                                              ; preds = %176
  %181 = getelementptr inbounds nuw %struct.matmul_args, ptr %3, i32 0, i32 5
  %182 = load ptr, ptr %181, align 8
  %183 = load i64, ptr %20, align 8
  %184 = getelementptr inbounds nuw %struct.matmul_args, ptr %3, i32 0, i32 6
  %185 = load i64, ptr %184, align 8
  %186 = mul nsw i64 %183, %185
  %187 = getelementptr inbounds float, ptr %182, i64 %186
  %188 = load i64, ptr %13, align 8
  %189 = load i64, ptr @N_OUTPUTS, align 8
  %190 = mul nsw i64 %188, %189
  %191 = getelementptr inbounds float, ptr %187, i64 %190
  store ptr %191, ptr %21, align 8
  %192 = load ptr, ptr %21, align 8
  %193 = load ptr, ptr %21, align 8
  %194 = call <16 x float> @load(ptr noundef %193)
  %195 = call <16 x float> @gelu(<16 x float> noundef %194)
  call void @store(ptr noundef %192, <16 x float> noundef %195)
  br label %196

196:                                              ; preds = %180
  %197 = load i64, ptr %20, align 8
  %198 = add nsw i64 %197, 1
  store i64 %198, ptr %20, align 8
  br label %176, !llvm.loop !21

199:                                              ; preds = %176
  br label %200

200:                                              ; preds = %199, %172
  br label %201

201:                                              ; preds = %200
  %202 = load i64, ptr %5, align 8
  %203 = load i64, ptr %13, align 8
  %204 = add nsw i64 %203, %202
  store i64 %204, ptr %13, align 8
  br label %77, !llvm.loop !22

205:                                              ; preds = %77
  ret void
}

declare void @llvm.memcpy.p0.p0.i64(ptr noalias writeonly captures(none), ptr noalias readonly captures(none), i64, i1 immarg) #4

define internal i64 @smaller(i64 noundef %0, i64 noundef %1) #1 {
  %3 = alloca i64, align 8
  %4 = alloca i64, align 8
  store i64 %0, ptr %3, align 8
  store i64 %1, ptr %4, align 8
  %5 = load i64, ptr %3, align 8
  %6 = load i64, ptr %4, align 8
  %7 = icmp slt i64 %5, %6
  br i1 %7, label %8, label %10

8:                                                ; preds = %2
  %9 = load i64, ptr %3, align 8
  br label %12

10:                                               ; preds = %2
  %11 = load i64, ptr %4, align 8
  br label %12

12:                                               ; preds = %10, %8
  %13 = phi i64 [ %9, %8 ], [ %11, %10 ]
  ret i64 %13
}

define internal void @add_products(ptr noundef %0, ptr noundef %1, i64 noundef %2, i64 noundef %3, i64 noundef %4) #1 {
  %6 = alloca ptr, align 8
  %7 = alloca ptr, align 8
  %8 = alloca i64, align 8
  %9 = alloca i64, align 8
  %10 = alloca i64, align 8
  %11 = alloca i64, align 8
  %12 = alloca i64, align 8
  %13 = alloca ptr, align 8
  %14 = alloca i64, align 8
  %15 = alloca ptr, align 8
  %16 = alloca i64, align 8
  store ptr %0, ptr %6, align 8
  store ptr %1, ptr %7, align 8
  store i64 %2, ptr %8, align 8
  store i64 %3, ptr %9, align 8
  store i64 %4, ptr %10, align 8
  %17 = load i64, ptr @IS_INT8, align 8
  %18 = icmp ne i64 %17, 0
  %19 = zext i1 %18 to i64
  %20 = select i1 %18, i32 1, i32 4
  %21 = sext i32 %20 to i64
  store i64 %21, ptr %11, align 8
  %22 = load ptr, ptr %7, align 8
  %23 = getelementptr inbounds nuw %struct.matmul_args, ptr %22, i32 0, i32 7
  %24 = load i64, ptr %23, align 8
  %25 = load i64, ptr %11, align 8
  %26 = mul nsw i64 %24, %25
  store i64 %26, ptr %12, align 8
  %27 = load ptr, ptr %7, align 8
  %28 = getelementptr inbounds nuw %struct.matmul_args, ptr %27, i32 0, i32 2
  %29 = load ptr, ptr %28, align 8
  %30 = load i64, ptr %8, align 8
  %31 = load i64, ptr %12, align 8
  %32 = mul nsw i64 %30, %31
  %33 = getelementptr inbounds i8, ptr %29, i64 %32
  store ptr %33, ptr %13, align 8
  %34 = load i64, ptr %9, align 8
  store i64 %34, ptr %14, align 8
  br label %35

35:                                               ; preds = %87, %5
  %36 = load i64, ptr %14, align 8
  %37 = load i64, ptr %10, align 8
  %38 = icmp slt i64 %36, %37
  br i1 %38, label %39, label %91

39:                                               ; preds = %35
  %40 = load ptr, ptr %13, align 8
  %41 = load i64, ptr %14, align 8
  %42 = load i64, ptr %11, align 8
  %43 = mul nsw i64 %41, %42
  %44 = getelementptr inbounds i8, ptr %40, i64 %43
  store ptr %44, ptr %15, align 8
  %45 = load i64, ptr @X_IS_INT16, align 8
  %46 = icmp ne i64 %45, 0
  br i1 %46, label %47, label %58

47:                                               ; preds = %39
  %48 = load ptr, ptr %6, align 8
  %49 = load ptr, ptr %7, align 8
  %50 = getelementptr inbounds nuw %struct.matmul_args, ptr %49, i32 0, i32 0
  %51 = load ptr, ptr %50, align 8
  %52 = load i64, ptr %14, align 8
  %53 = load i64, ptr @N_ROWS, align 8
  %54 = mul nsw i64 %52, %53
  %55 = getelementptr inbounds i16, ptr %51, i64 %54
  %56 = load ptr, ptr %15, align 8
  %57 = load i64, ptr %12, align 8
  call void @add_products_int16(ptr noundef %48, ptr noundef %55, ptr noundef %56, i64 noundef %57)
  br label %69

58:                                               ; preds = %39
  %59 = load ptr, ptr %6, align 8
  %60 = load ptr, ptr %7, align 8
  %61 = getelementptr inbounds nuw %struct.matmul_args, ptr %60, i32 0, i32 0
  %62 = load ptr, ptr %61, align 8
  %63 = load i64, ptr %14, align 8
  %64 = load i64, ptr @N_ROWS, align 8
  %65 = mul nsw i64 %63, %64
  %66 = getelementptr inbounds float, ptr %62, i64 %65
  %67 = load ptr, ptr %15, align 8
  %68 = load i64, ptr %12, align 8
  call void @add_products_f32(ptr noundef %59, ptr noundef %66, ptr noundef %67, i64 noundef %68)
  br label %69

69:                                               ; preds = %58, %47
  store i64 0, ptr %16, align 8
  br label %70

70:                                               ; preds = %83, %69
  %71 = load i64, ptr %16, align 8
  %72 = load i64, ptr @N_OUTPUTS, align 8
  %73 = icmp slt i64 %71, %72
  br i1 %73, label %74, label %86

74:                                               ; preds = %70
  %75 = load ptr, ptr %15, align 8
  %76 = load i64, ptr %16, align 8
  %77 = add nsw i64 %76, 16
  %78 = load i64, ptr %12, align 8
  %79 = mul nsw i64 %77, %78
  %80 = load i64, ptr @N_COLUMNS, align 8
  %81 = load i64, ptr %11, align 8
  %82 = mul nsw i64 %80, %81
  call void @prefetch(ptr noundef %75, i64 noundef %79, i64 noundef %82)
  br label %83

83:                                               ; preds = %74
  %84 = load i64, ptr %16, align 8
  %85 = add nsw i64 %84, 1
  store i64 %85, ptr %16, align 8
  br label %70, !llvm.loop !23

86:                                               ; preds = %70
  br label %87

87:                                               ; preds = %86
  %88 = load i64, ptr @N_COLUMNS, align 8
  %89 = load i64, ptr %14, align 8
  %90 = add nsw i64 %89, %88
  store i64 %90, ptr %14, align 8
  br label %35, !llvm.loop !24

91:                                               ; preds = %35
  ret void
}

define internal void @store_outputs(ptr noundef %0, <16 x float> noundef %1, ptr noundef %2, i64 noundef %3) #2 {
  %5 = alloca ptr, align 8
  %6 = alloca <16 x float>, align 64
  %7 = alloca ptr, align 8
  %8 = alloca i64, align 8
  %9 = alloca [16 x <16 x float>], align 64
  %10 = alloca i64, align 8
  %11 = alloca i64, align 8
  %12 = alloca <16 x float>, align 64
  %13 = alloca <16 x float>, align 64
  %14 = alloca <16 x float>, align 64
  %15 = alloca i64, align 8
  %16 = alloca i64, align 8
  %17 = alloca ptr, align 8
  store ptr %0, ptr %5, align 8
  store <16 x float> %1, ptr %6, align 64
  store ptr %2, ptr %7, align 8
  store i64 %3, ptr %8, align 8
  call void @llvm.memset.p0.i64(ptr align 64 %9, i8 0, i64 1024, i1 false)
  store i64 0, ptr %10, align 8
  br label %18

18:                                               ; preds = %43, %4
  %19 = load i64, ptr %10, align 8
  %20 = load i64, ptr @N_ROWS, align 8
  %21 = load i64, ptr @N_OUTPUTS, align 8
  %22 = mul nsw i64 %20, %21
  %23 = icmp slt i64 %19, %22
  br i1 %23, label %24, label %46

24:                                               ; preds = %18
  %25 = load i64, ptr @X_IS_INT16, align 8
  %26 = icmp ne i64 %25, 0
  br i1 %26, label %27, label %34

27:                                               ; preds = %24
  %28 = load ptr, ptr %5, align 8
  %29 = load i64, ptr %10, align 8
  %30 = getelementptr inbounds <16 x float>, ptr %28, i64 %29
  %31 = load <16 x float>, ptr %30, align 64
  %32 = bitcast <16 x float> %31 to <16 x i32>
  %33 = sitofp <16 x i32> %32 to <16 x float>
  br label %39

34:                                               ; preds = %24
  %35 = load ptr, ptr %5, align 8
  %36 = load i64, ptr %10, align 8
  %37 = getelementptr inbounds <16 x float>, ptr %35, i64 %36
  %38 = load <16 x float>, ptr %37, align 64
  br label %39

39:                                               ; preds = %34, %27
  %40 = phi <16 x float> [ %33, %27 ], [ %38, %34 ]
  %41 = load i64, ptr %10, align 8
  %42 = getelementptr inbounds [16 x <16 x float>], ptr %9, i64 0, i64 %41
  store <16 x float> %40, ptr %42, align 64
  br label %43

43:                                               ; preds = %39
  %44 = load i64, ptr %10, align 8
  %45 = add nsw i64 %44, 1
  store i64 %45, ptr %10, align 8
  br label %18, !llvm.loop !25

46:                                               ; preds = %18
  %47 = load i64, ptr %8, align 8
  %48 = load i64, ptr @N_OUTPUTS, align 8
  %49 = add nsw i64 %47, %48
  %50 = sub nsw i64 %49, 1
  store i64 %50, ptr %11, align 8
  %51 = load ptr, ptr %7, align 8
  %52 = getelementptr inbounds nuw %struct.matmul_args, ptr %51, i32 0, i32 3
  %53 = load ptr, ptr %52, align 8
  %54 = load i64, ptr %8, align 8
  %55 = getelementptr inbounds float, ptr %53, i64 %54
  %56 = load float, ptr %55, align 4
  %57 = insertelement <8 x float> poison, float %56, i64 0
  %58 = shufflevector <8 x float> %57, <8 x float> poison, <8 x i32> zeroinitializer
  %59 = load <16 x float>, ptr %12, align 64
  %60 = shufflevector <8 x float> %58, <8 x float> poison, <16 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison>
  %61 = shufflevector <16 x float> %59, <16 x float> %60, <16 x i32> <i32 16, i32 1, i32 17, i32 3, i32 18, i32 5, i32 19, i32 7, i32 20, i32 9, i32 21, i32 11, i32 22, i32 13, i32 23, i32 15>
  store <16 x float> %61, ptr %12, align 64
  %62 = load ptr, ptr %7, align 8
  %63 = getelementptr inbounds nuw %struct.matmul_args, ptr %62, i32 0, i32 3
  %64 = load ptr, ptr %63, align 8
  %65 = load i64, ptr %11, align 8
  %66 = getelementptr inbounds float, ptr %64, i64 %65
  %67 = load float, ptr %66, align 4
  %68 = insertelement <8 x float> poison, float %67, i64 0
  %69 = shufflevector <8 x float> %68, <8 x float> poison, <8 x i32> zeroinitializer
  %70 = load <16 x float>, ptr %12, align 64
  %71 = shufflevector <8 x float> %69, <8 x float> poison, <16 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison>
  %72 = shufflevector <16 x float> %70, <16 x float> %71, <16 x i32> <i32 0, i32 16, i32 2, i32 17, i32 4, i32 18, i32 6, i32 19, i32 8, i32 20, i32 10, i32 21, i32 12, i32 22, i32 14, i32 23>
  store <16 x float> %72, ptr %12, align 64
  %73 = load ptr, ptr %7, align 8
  %74 = getelementptr inbounds nuw %struct.matmul_args, ptr %73, i32 0, i32 4
  %75 = load ptr, ptr %74, align 8
  %76 = load i64, ptr %8, align 8
  %77 = getelementptr inbounds float, ptr %75, i64 %76
  %78 = load float, ptr %77, align 4
  %79 = insertelement <8 x float> poison, float %78, i64 0
  %80 = shufflevector <8 x float> %79, <8 x float> poison, <8 x i32> zeroinitializer
  %81 = load <16 x float>, ptr %13, align 64
  %82 = shufflevector <8 x float> %80, <8 x float> poison, <16 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison>
  %83 = shufflevector <16 x float> %81, <16 x float> %82, <16 x i32> <i32 16, i32 1, i32 17, i32 3, i32 18, i32 5, i32 19, i32 7, i32 20, i32 9, i32 21, i32 11, i32 22, i32 13, i32 23, i32 15>
  store <16 x float> %83, ptr %13, align 64
  %84 = load ptr, ptr %7, align 8
  %85 = getelementptr inbounds nuw %struct.matmul_args, ptr %84, i32 0, i32 4
  %86 = load ptr, ptr %85, align 8
  %87 = load i64, ptr %11, align 8
  %88 = getelementptr inbounds float, ptr %86, i64 %87
  %89 = load float, ptr %88, align 4
  %90 = insertelement <8 x float> poison, float %89, i64 0
  %91 = shufflevector <8 x float> %90, <8 x float> poison, <8 x i32> zeroinitializer
  %92 = load <16 x float>, ptr %13, align 64
  %93 = shufflevector <8 x float> %91, <8 x float> poison, <16 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison>
  %94 = shufflevector <16 x float> %92, <16 x float> %93, <16 x i32> <i32 0, i32 16, i32 2, i32 17, i32 4, i32 18, i32 6, i32 19, i32 8, i32 20, i32 10, i32 21, i32 12, i32 22, i32 14, i32 23>
  store <16 x float> %94, ptr %13, align 64
  %95 = getelementptr inbounds [16 x <16 x float>], ptr %9, i64 0, i64 0
  %96 = call <16 x float> @hsum_16(ptr noundef %95)
  %97 = load <16 x float>, ptr %6, align 64
  %98 = fmul <16 x float> %96, %97
  %99 = load <16 x float>, ptr %12, align 64
  %100 = fmul <16 x float> %98, %99
  %101 = load <16 x float>, ptr %13, align 64
  %102 = fadd <16 x float> %100, %101
  store <16 x float> %102, ptr %14, align 64
  store i64 0, ptr %15, align 8
  br label %103

103:                                              ; preds = %154, %46
  %104 = load i64, ptr %15, align 8
  %105 = load i64, ptr @N_ROWS, align 8
  %106 = icmp slt i64 %104, %105
  br i1 %106, label %107, label %157

107:                                              ; preds = %103
  store i64 0, ptr %16, align 8
  br label %108

108:                                              ; preds = %150, %107
  %109 = load i64, ptr %16, align 8
  %110 = load i64, ptr @N_OUTPUTS, align 8
  %111 = icmp slt i64 %109, %110
  br i1 %111, label %112, label %153

112:                                              ; preds = %108
  %113 = load ptr, ptr %7, align 8
  %114 = getelementptr inbounds nuw %struct.matmul_args, ptr %113, i32 0, i32 5
  %115 = load ptr, ptr %114, align 8
  %116 = load i64, ptr %15, align 8
  %117 = load ptr, ptr %7, align 8
  %118 = getelementptr inbounds nuw %struct.matmul_args, ptr %117, i32 0, i32 6
  %119 = load i64, ptr %118, align 8
  %120 = mul nsw i64 %116, %119
  %121 = getelementptr inbounds float, ptr %115, i64 %120
  %122 = load i64, ptr %8, align 8
  %123 = getelementptr inbounds float, ptr %121, i64 %122
  %124 = load i64, ptr %16, align 8
  %125 = getelementptr inbounds float, ptr %123, i64 %124
  store ptr %125, ptr %17, align 8
  %126 = load i64, ptr @ADDS, align 8
  %127 = icmp ne i64 %126, 0
  br i1 %127, label %128, label %139

128:                                              ; preds = %112
  %129 = load ptr, ptr %17, align 8
  %130 = load float, ptr %129, align 4
  %131 = load <16 x float>, ptr %14, align 64
  %132 = load i64, ptr %15, align 8
  %133 = load i64, ptr @N_OUTPUTS, align 8
  %134 = mul nsw i64 %132, %133
  %135 = load i64, ptr %16, align 8
  %136 = add nsw i64 %134, %135
  %137 = extractelement <16 x float> %131, i64 %136
  %138 = fadd float %130, %137
  br label %147

139:                                              ; preds = %112
  %140 = load <16 x float>, ptr %14, align 64
  %141 = load i64, ptr %15, align 8
  %142 = load i64, ptr @N_OUTPUTS, align 8
  %143 = mul nsw i64 %141, %142
  %144 = load i64, ptr %16, align 8
  %145 = add nsw i64 %143, %144
  %146 = extractelement <16 x float> %140, i64 %145
  br label %147

147:                                              ; preds = %139, %128
  %148 = phi float [ %138, %128 ], [ %146, %139 ]
  %149 = load ptr, ptr %17, align 8
  store float %148, ptr %149, align 4
  br label %150

150:                                              ; preds = %147
  %151 = load i64, ptr %16, align 8
  %152 = add nsw i64 %151, 1
  store i64 %152, ptr %16, align 8
  br label %108, !llvm.loop !26

153:                                              ; preds = %108
  br label %154

154:                                              ; preds = %153
  %155 = load i64, ptr %15, align 8
  %156 = add nsw i64 %155, 1
  store i64 %156, ptr %15, align 8
  br label %103, !llvm.loop !27

157:                                              ; preds = %103
  ret void
}

define internal <16 x float> @gelu(<16 x float> noundef %0) #2 {
  %2 = alloca <16 x float>, align 64
  %3 = alloca <16 x float>, align 64
  store <16 x float> %0, ptr %2, align 64
  %4 = load <16 x float>, ptr %2, align 64
  %5 = fmul <16 x float> %4, splat (float 5.000000e-01)
  store <16 x float> %5, ptr %3, align 64
  %6 = load <16 x float>, ptr %3, align 64
  %7 = load <16 x float>, ptr %2, align 64
  %8 = fmul <16 x float> %7, splat (float 0x3FE6A09E60000000)
  %9 = call <16 x float> @erf_f32(<16 x float> noundef %8)
  %10 = load <16 x float>, ptr %3, align 64
  %11 = call <16 x float> @fma(<16 x float> noundef %6, <16 x float> noundef %9, <16 x float> noundef %10)
  ret <16 x float> %11
}

define dso_local void @attention(ptr noundef %0) #5 {
  %2 = alloca ptr, align 8
  %3 = alloca %struct.attention_args, align 8
  %4 = alloca i64, align 8
  %5 = alloca i64, align 8
  %6 = alloca i64, align 8
  %7 = alloca i64, align 8
  %8 = alloca i64, align 8
  %9 = alloca i64, align 8
  %10 = alloca i64, align 8
  %11 = alloca i64, align 8
  %12 = alloca i64, align 8
  %13 = alloca i64, align 8
  %14 = alloca i64, align 8
  %15 = alloca ptr, align 8
  %16 = alloca ptr, align 8
  %17 = alloca ptr, align 8
  %18 = alloca float, align 4
  %19 = alloca float, align 4
  store ptr %0, ptr %2, align 8
  %20 = load ptr, ptr %2, align 8
  call void @llvm.memcpy.p0.p0.i64(ptr align 8 %3, ptr align 8 %20, i64 104, i1 false)
  %21 = getelementptr inbounds nuw %struct.attention_args, ptr %3, i32 0, i32 9
  %22 = load i64, ptr %21, align 8
  store i64 %22, ptr %4, align 8
  %23 = getelementptr inbounds nuw %struct.attention_args, ptr %3, i32 0, i32 8
  %24 = load i64, ptr %23, align 8
  %25 = load i64, ptr %4, align 8
  %26 = mul nsw i64 %24, %25
  call void @thread_range(i64 noundef %26, ptr noundef %5, ptr noundef %6)
  %27 = load i64, ptr %5, align 8
  store i64 %27, ptr %7, align 8
  br label %28

28:                                               ; preds = %139, %1
  %29 = load i64, ptr %7, align 8
  %30 = load i64, ptr %6, align 8
  %31 = icmp slt i64 %29, %30
  br i1 %31, label %32, label %142

32:                                               ; preds = %28
  %33 = load i64, ptr %7, align 8
  %34 = load i64, ptr %4, align 8
  %35 = sdiv i64 %33, %34
  store i64 %35, ptr %8, align 8
  %36 = load i64, ptr %7, align 8
  %37 = load i64, ptr %4, align 8
  %38 = srem i64 %36, %37
  store i64 %38, ptr %9, align 8
  %39 = load i64, ptr %7, align 8
  %40 = add nsw i64 %39, 1
  %41 = load i64, ptr %6, align 8
  %42 = sub nsw i64 %41, 1
  %43 = call i64 @smaller(i64 noundef %40, i64 noundef %42)
  store i64 %43, ptr %10, align 8
  %44 = getelementptr inbounds nuw %struct.attention_args, ptr %3, i32 0, i32 5
  %45 = load ptr, ptr %44, align 8
  %46 = load i64, ptr %8, align 8
  %47 = getelementptr inbounds i64, ptr %45, i64 %46
  %48 = load i64, ptr %47, align 8
  store i64 %48, ptr %11, align 8
  %49 = load i64, ptr %8, align 8
  %50 = getelementptr inbounds nuw %struct.attention_args, ptr %3, i32 0, i32 12
  %51 = load i64, ptr %50, align 8
  %52 = mul nsw i64 %49, %51
  %53 = load i64, ptr %9, align 8
  %54 = load i64, ptr @HEAD_WIDTH, align 8
  %55 = mul nsw i64 %53, %54
  %56 = add nsw i64 %52, %55
  store i64 %56, ptr %12, align 8
  %57 = load i64, ptr %8, align 8
  %58 = load i64, ptr %9, align 8
  %59 = call i64 @head_offset(ptr noundef %3, i64 noundef %57, i64 noundef %58)
  store i64 %59, ptr %13, align 8
  %60 = load i64, ptr %10, align 8
  %61 = load i64, ptr %4, align 8
  %62 = sdiv i64 %60, %61
  %63 = load i64, ptr %10, align 8
  %64 = load i64, ptr %4, align 8
  %65 = srem i64 %63, %64
  %66 = call i64 @head_offset(ptr noundef %3, i64 noundef %62, i64 noundef %65)
  store i64 %66, ptr %14, align 8
  %67 = getelementptr inbounds nuw %struct.attention_args, ptr %3, i32 0, i32 2
  %68 = load ptr, ptr %67, align 8
  %69 = load i64, ptr %13, align 8
  %70 = getelementptr inbounds i8, ptr %68, i64 %69
  store ptr %70, ptr %15, align 8
  %71 = getelementptr inbounds nuw %struct.attention_args, ptr %3, i32 0, i32 3
  %72 = load ptr, ptr %71, align 8
  %73 = load i64, ptr %13, align 8
  %74 = getelementptr inbounds i8, ptr %72, i64 %73
  store ptr %74, ptr %16, align 8
  %75 = getelementptr inbounds nuw %struct.attention_args, ptr %3, i32 0, i32 1
  %76 = load ptr, ptr %75, align 8
  %77 = icmp ne ptr %76, null
  br i1 %77, label %78, label %103

78:                                               ; preds = %32
  %79 = load ptr, ptr %15, align 8
  %80 = load i64, ptr %11, align 8
  %81 = sub nsw i64 %80, 1
  %82 = call i64 @head_bytes()
  %83 = mul nsw i64 %81, %82
  %84 = getelementptr inbounds i8, ptr %79, i64 %83
  %85 = getelementptr inbounds nuw %struct.attention_args, ptr %3, i32 0, i32 1
  %86 = load ptr, ptr %85, align 8
  %87 = load i64, ptr %12, align 8
  %88 = getelementptr inbounds float, ptr %86, i64 %87
  call void @store_head(ptr noundef %84, ptr noundef %88)
  %89 = load ptr, ptr %16, align 8
  %90 = load i64, ptr %11, align 8
  %91 = sub nsw i64 %90, 1
  %92 = call i64 @head_bytes()
  %93 = mul nsw i64 %91, %92
  %94 = getelementptr inbounds i8, ptr %89, i64 %93
  %95 = getelementptr inbounds nuw %struct.attention_args, ptr %3, i32 0, i32 1
  %96 = load ptr, ptr %95, align 8
  %97 = load i64, ptr %12, align 8
  %98 = getelementptr inbounds float, ptr %96, i64 %97
  %99 = load i64, ptr %4, align 8
  %100 = load i64, ptr @HEAD_WIDTH, align 8
  %101 = mul nsw i64 %99, %100
  %102 = getelementptr inbounds float, ptr %98, i64 %101
  call void @store_head(ptr noundef %94, ptr noundef %102)
  br label %103

103:                                              ; preds = %78, %32
  %104 = getelementptr inbounds nuw %struct.attention_args, ptr %3, i32 0, i32 6
  %105 = load ptr, ptr %104, align 8
  %106 = load i64, ptr %7, align 8
  %107 = getelementptr inbounds nuw %struct.attention_args, ptr %3, i32 0, i32 11
  %108 = load i64, ptr %107, align 8
  %109 = mul nsw i64 %106, %108
  %110 = getelementptr inbounds float, ptr %105, i64 %109
  store ptr %110, ptr %17, align 8
  %111 = getelementptr inbounds nuw %struct.attention_args, ptr %3, i32 0, i32 0
  %112 = load ptr, ptr %111, align 8
  %113 = load i64, ptr %12, align 8
  %114 = getelementptr inbounds float, ptr %112, i64 %113
  %115 = load ptr, ptr %15, align 8
  %116 = load ptr, ptr %16, align 8
  %117 = load i64, ptr %11, align 8
  %118 = load ptr, ptr %17, align 8
  %119 = call float @score_keys(ptr noundef %114, ptr noundef %115, ptr noundef %116, i64 noundef %117, ptr noundef %118)
  store float %119, ptr %18, align 4
  %120 = load ptr, ptr %17, align 8
  %121 = load i64, ptr %11, align 8
  %122 = load float, ptr %18, align 4
  %123 = call float @exp_scores(ptr noundef %120, i64 noundef %121, float noundef %122)
  store float %123, ptr %19, align 4
  %124 = load ptr, ptr %17, align 8
  %125 = load ptr, ptr %16, align 8
  %126 = getelementptr inbounds nuw %struct.attention_args, ptr %3, i32 0, i32 2
  %127 = load ptr, ptr %126, align 8
  %128 = load i64, ptr %14, align 8
  %129 = getelementptr inbounds i8, ptr %127, i64 %128
  %130 = load i64, ptr %11, align 8
  %131 = load float, ptr %19, align 4
  %132 = fdiv float 1.000000e+00, %131
  %133 = getelementptr inbounds nuw %struct.attention_args, ptr %3, i32 0, i32 7
  %134 = load ptr, ptr %133, align 8
  %135 = load i64, ptr %7, align 8
  %136 = load i64, ptr @HEAD_WIDTH, align 8
  %137 = mul nsw i64 %135, %136
  %138 = getelementptr inbounds float, ptr %134, i64 %137
  call void @sum_values(ptr noundef %124, ptr noundef %125, ptr noundef %129, i64 noundef %130, float noundef %132, ptr noundef %138)
  br label %139

139:                                              ; preds = %103
  %140 = load i64, ptr %7, align 8
  %141 = add nsw i64 %140, 1
  store i64 %141, ptr %7, align 8
  br label %28, !llvm.loop !28

142:                                              ; preds = %28
  ret void
}

define internal i64 @head_offset(ptr noundef %0, i64 noundef %1, i64 noundef %2) #1 {
  %4 = alloca ptr, align 8
  %5 = alloca i64, align 8
  %6 = alloca i64, align 8
  store ptr %0, ptr %4, align 8
  store i64 %1, ptr %5, align 8
  store i64 %2, ptr %6, align 8
  %7 = load ptr, ptr %4, align 8
  %8 = getelementptr inbounds nuw %struct.attention_args, ptr %7, i32 0, i32 4
  %9 = load ptr, ptr %8, align 8
  %10 = load i64, ptr %5, align 8
  %11 = getelementptr inbounds i64, ptr %9, i64 %10
  %12 = load i64, ptr %11, align 8
  %13 = load ptr, ptr %4, align 8
  %14 = getelementptr inbounds nuw %struct.attention_args, ptr %13, i32 0, i32 9
  %15 = load i64, ptr %14, align 8
  %16 = mul nsw i64 %12, %15
  %17 = load i64, ptr %6, align 8
  %18 = add nsw i64 %16, %17
  %19 = load ptr, ptr %4, align 8
  %20 = getelementptr inbounds nuw %struct.attention_args, ptr %19, i32 0, i32 10
  %21 = load i64, ptr %20, align 8
  %22 = mul nsw i64 %18, %21
  %23 = call i64 @head_bytes()
  %24 = mul nsw i64 %22, %23
  ret i64 %24
}

define internal void @store_head(ptr noundef %0, ptr noundef %1) #2 {
  %3 = alloca ptr, align 8
  %4 = alloca ptr, align 8
  %5 = alloca <16 x float>, align 64
  %6 = alloca <16 x float>, align 64
  %7 = alloca <16 x float>, align 64
  %8 = alloca i64, align 8
  %9 = alloca i64, align 8
  %10 = alloca i64, align 8
  store ptr %0, ptr %3, align 8
  store ptr %1, ptr %4, align 8
  %11 = load i64, ptr @IS_INT8, align 8
  %12 = icmp ne i64 %11, 0
  br i1 %12, label %13, label %71

13:                                               ; preds = %2
  %14 = load ptr, ptr %4, align 8
  %15 = call <16 x float> @load(ptr noundef %14)
  %16 = call <16 x float> @magnitude(<16 x float> noundef %15)
  store <16 x float> %16, ptr %5, align 64
  %17 = load ptr, ptr %4, align 8
  %18 = call <16 x float> @load(ptr noundef %17)
  %19 = fmul <16 x float> %18, zeroinitializer
  store <16 x float> %19, ptr %6, align 64
  store i64 16, ptr %8, align 8
  br label %20

20:                                               ; preds = %39, %13
  %21 = load i64, ptr %8, align 8
  %22 = load i64, ptr @HEAD_WIDTH, align 8
  %23 = icmp slt i64 %21, %22
  br i1 %23, label %24, label %42

24:                                               ; preds = %20
  %25 = load <16 x float>, ptr %5, align 64
  %26 = load ptr, ptr %4, align 8
  %27 = load i64, ptr %8, align 8
  %28 = getelementptr inbounds float, ptr %26, i64 %27
  %29 = call <16 x float> @load(ptr noundef %28)
  %30 = call <16 x float> @magnitude(<16 x float> noundef %29)
  %31 = call <16 x float> @larger(<16 x float> noundef %25, <16 x float> noundef %30)
  store <16 x float> %31, ptr %5, align 64
  %32 = load ptr, ptr %4, align 8
  %33 = load i64, ptr %8, align 8
  %34 = getelementptr inbounds float, ptr %32, i64 %33
  %35 = call <16 x float> @load(ptr noundef %34)
  %36 = fmul <16 x float> %35, zeroinitializer
  %37 = load <16 x float>, ptr %6, align 64
  %38 = fadd <16 x float> %37, %36
  store <16 x float> %38, ptr %6, align 64
  br label %39

39:                                               ; preds = %24
  %40 = load i64, ptr %8, align 8
  %41 = add nsw i64 %40, 16
  store i64 %41, ptr %8, align 8
  br label %20, !llvm.loop !29

42:                                               ; preds = %20
  %43 = load <16 x float>, ptr %5, align 64
  %44 = load <16 x float>, ptr %6, align 64
  %45 = call float @quant_step(<16 x float> noundef %43, <16 x float> noundef %44, float noundef 1.270000e+02, ptr noundef %7)
  %46 = load ptr, ptr %3, align 8
  %47 = load i64, ptr @HEAD_WIDTH, align 8
  %48 = getelementptr inbounds i8, ptr %46, i64 %47
  %49 = getelementptr inbounds nuw %struct.anon.5, ptr %48, i32 0, i32 0
  store float %45, ptr %49, align 1
  store i64 0, ptr %9, align 8
  br label %50

50:                                               ; preds = %67, %42
  %51 = load i64, ptr %9, align 8
  %52 = load i64, ptr @HEAD_WIDTH, align 8
  %53 = icmp slt i64 %51, %52
  br i1 %53, label %54, label %70

54:                                               ; preds = %50
  %55 = load ptr, ptr %4, align 8
  %56 = load i64, ptr %9, align 8
  %57 = getelementptr inbounds float, ptr %55, i64 %56
  %58 = call <16 x float> @load(ptr noundef %57)
  %59 = load <16 x float>, ptr %7, align 64
  %60 = fmul <16 x float> %58, %59
  %61 = call <16 x i32> @round_to_int(<16 x float> noundef %60)
  %62 = trunc <16 x i32> %61 to <16 x i8>
  %63 = load ptr, ptr %3, align 8
  %64 = load i64, ptr %9, align 8
  %65 = getelementptr inbounds i8, ptr %63, i64 %64
  %66 = getelementptr inbounds nuw %struct.anon.6, ptr %65, i32 0, i32 0
  store <16 x i8> %62, ptr %66, align 1
  br label %67

67:                                               ; preds = %54
  %68 = load i64, ptr %9, align 8
  %69 = add nsw i64 %68, 16
  store i64 %69, ptr %9, align 8
  br label %50, !llvm.loop !30

70:                                               ; preds = %50
  br label %88

71:                                               ; preds = %2
  store i64 0, ptr %10, align 8
  br label %72

72:                                               ; preds = %84, %71
  %73 = load i64, ptr %10, align 8
  %74 = load i64, ptr @HEAD_WIDTH, align 8
  %75 = icmp slt i64 %73, %74
  br i1 %75, label %76, label %87

76:                                               ; preds = %72
  %77 = load ptr, ptr %3, align 8
  %78 = load i64, ptr %10, align 8
  %79 = getelementptr inbounds float, ptr %77, i64 %78
  %80 = load ptr, ptr %4, align 8
  %81 = load i64, ptr %10, align 8
  %82 = getelementptr inbounds float, ptr %80, i64 %81
  %83 = call <16 x float> @load(ptr noundef %82)
  call void @store(ptr noundef %79, <16 x float> noundef %83)
  br label %84

84:                                               ; preds = %76
  %85 = load i64, ptr %10, align 8
  %86 = add nsw i64 %85, 16
  store i64 %86, ptr %10, align 8
  br label %72, !llvm.loop !31

87:                                               ; preds = %72
  br label %88

88:                                               ; preds = %87, %70
  ret void
}

define internal i64 @head_bytes() #1 {
  %1 = load i64, ptr @IS_INT8, align 8
  %2 = icmp ne i64 %1, 0
  br i1 %2, label %3, label %6

3:                                                ; preds = %0
  %4 = load i64, ptr @HEAD_WIDTH, align 8
  %5 = add nsw i64 %4, 4
  br label %9

6:                                                ; preds = %0
  %7 = load i64, ptr @HEAD_WIDTH, align 8
  %8 = mul nsw i64 4, %7
  br label %9

9:                                                ; preds = %6, %3
  %10 = phi i64 [ %5, %3 ], [ %8, %6 ]
  ret i64 %10
}

define internal float @score_keys(ptr noundef %0, ptr noundef %1, ptr noundef %2, i64 noundef %3, ptr noundef %4) #2 {
  %6 = alloca ptr, align 8
  %7 = alloca ptr, align 8
  %8 = alloca ptr, align 8
  %9 = alloca i64, align 8
  %10 = alloca ptr, align 8
  %11 = alloca ptr, align 8
  %12 = alloca i64, align 8
  %13 = alloca i64, align 8
  %14 = alloca float, align 4
  %15 = alloca i64, align 8
  %16 = alloca ptr, align 8
  %17 = alloca <16 x float>, align 64
  %18 = alloca i64, align 8
  %19 = alloca float, align 4
  store ptr %0, ptr %6, align 8
  store ptr %1, ptr %7, align 8
  store ptr %2, ptr %8, align 8
  store i64 %3, ptr %9, align 8
  store ptr %4, ptr %10, align 8
  %20 = load i64, ptr @HEAD_WIDTH, align 8
  %21 = sdiv i64 %20, 16
  %22 = call ptr @llvm.stacksave.p0()
  store ptr %22, ptr %11, align 8
  %23 = alloca <16 x float>, i64 %21, align 64
  store i64 %21, ptr %12, align 8
  store i64 0, ptr %13, align 8
  br label %24

24:                                               ; preds = %44, %5
  %25 = load i64, ptr %13, align 8
  %26 = load i64, ptr @HEAD_WIDTH, align 8
  %27 = sdiv i64 %26, 16
  %28 = icmp slt i64 %25, %27
  br i1 %28, label %29, label %47

29:                                               ; preds = %24
  %30 = load ptr, ptr %6, align 8
  %31 = load i64, ptr %13, align 8
  %32 = mul nsw i64 %31, 16
  %33 = getelementptr inbounds float, ptr %30, i64 %32
  %34 = call <16 x float> @load(ptr noundef %33)
  %35 = load i64, ptr @HEAD_WIDTH, align 8
  %36 = sitofp i64 %35 to double
  %37 = call double @llvm.sqrt.f64(double %36)
  %38 = fdiv double 1.000000e+00, %37
  %39 = fptrunc double %38 to float
  %40 = call <16 x float> @splat(float noundef %39)
  %41 = fmul <16 x float> %34, %40
  %42 = load i64, ptr %13, align 8
  %43 = getelementptr inbounds <16 x float>, ptr %23, i64 %42
  store <16 x float> %41, ptr %43, align 64
  br label %44

44:                                               ; preds = %29
  %45 = load i64, ptr %13, align 8
  %46 = add nsw i64 %45, 1
  store i64 %46, ptr %13, align 8
  br label %24, !llvm.loop !32

47:                                               ; preds = %24
  store float 0xFFF0000000000000, ptr %14, align 4
  store i64 0, ptr %15, align 8
  br label %48

48:                                               ; preds = %100, %47
  %49 = load i64, ptr %15, align 8
  %50 = load i64, ptr %9, align 8
  %51 = icmp slt i64 %49, %50
  br i1 %51, label %52, label %103

52:                                               ; preds = %48
  %53 = load ptr, ptr %7, align 8
  %54 = load i64, ptr %15, align 8
  %55 = load i64, ptr %9, align 8
  %56 = load ptr, ptr %8, align 8
  call void @prefetch_head(ptr noundef %53, i64 noundef %54, i64 noundef %55, ptr noundef %56)
  %57 = load ptr, ptr %7, align 8
  %58 = load i64, ptr %15, align 8
  %59 = call i64 @head_bytes()
  %60 = mul nsw i64 %58, %59
  %61 = getelementptr inbounds i8, ptr %57, i64 %60
  store ptr %61, ptr %16, align 8
  %62 = call <16 x float> @splat(float noundef 0.000000e+00)
  store <16 x float> %62, ptr %17, align 64
  store i64 0, ptr %18, align 8
  br label %63

63:                                               ; preds = %78, %52
  %64 = load i64, ptr %18, align 8
  %65 = load i64, ptr @HEAD_WIDTH, align 8
  %66 = sdiv i64 %65, 16
  %67 = icmp slt i64 %64, %66
  br i1 %67, label %68, label %81

68:                                               ; preds = %63
  %69 = load i64, ptr %18, align 8
  %70 = getelementptr inbounds <16 x float>, ptr %23, i64 %69
  %71 = load <16 x float>, ptr %70, align 64
  %72 = load ptr, ptr %16, align 8
  %73 = load i64, ptr %18, align 8
  %74 = mul nsw i64 %73, 16
  %75 = call <16 x float> @load_head(ptr noundef %72, i64 noundef %74)
  %76 = load <16 x float>, ptr %17, align 64
  %77 = call <16 x float> @fma(<16 x float> noundef %71, <16 x float> noundef %75, <16 x float> noundef %76)
  store <16 x float> %77, ptr %17, align 64
  br label %78

78:                                               ; preds = %68
  %79 = load i64, ptr %18, align 8
  %80 = add nsw i64 %79, 1
  store i64 %80, ptr %18, align 8
  br label %63, !llvm.loop !33

81:                                               ; preds = %63
  %82 = load <16 x float>, ptr %17, align 64
  %83 = call float @hsum(<16 x float> noundef %82)
  %84 = load ptr, ptr %16, align 8
  %85 = call float @head_step(ptr noundef %84)
  %86 = fmul float %83, %85
  store float %86, ptr %19, align 4
  %87 = load float, ptr %19, align 4
  %88 = load ptr, ptr %10, align 8
  %89 = load i64, ptr %15, align 8
  %90 = getelementptr inbounds float, ptr %88, i64 %89
  store float %87, ptr %90, align 4
  %91 = load float, ptr %14, align 4
  %92 = load float, ptr %19, align 4
  %93 = fcmp ogt float %91, %92
  br i1 %93, label %94, label %96

94:                                               ; preds = %81
  %95 = load float, ptr %14, align 4
  br label %98

96:                                               ; preds = %81
  %97 = load float, ptr %19, align 4
  br label %98

98:                                               ; preds = %96, %94
  %99 = phi float [ %95, %94 ], [ %97, %96 ]
  store float %99, ptr %14, align 4
  br label %100

100:                                              ; preds = %98
  %101 = load i64, ptr %15, align 8
  %102 = add nsw i64 %101, 1
  store i64 %102, ptr %15, align 8
  br label %48, !llvm.loop !34

103:                                              ; preds = %48
  %104 = load ptr, ptr %10, align 8
  %105 = load i64, ptr %9, align 8
  %106 = getelementptr inbounds float, ptr %104, i64 %105
  %107 = call <16 x float> @splat(float noundef 0xFFF0000000000000)
  call void @store(ptr noundef %106, <16 x float> noundef %107)
  %108 = load float, ptr %14, align 4
  %109 = load ptr, ptr %11, align 8
  call void @llvm.stackrestore.p0(ptr %109)
  ret float %108
}

define internal float @exp_scores(ptr noundef %0, i64 noundef %1, float noundef %2) #2 {
  %4 = alloca ptr, align 8
  %5 = alloca i64, align 8
  %6 = alloca float, align 4
  %7 = alloca <16 x float>, align 64
  %8 = alloca i64, align 8
  %9 = alloca <16 x float>, align 64
  store ptr %0, ptr %4, align 8
  store i64 %1, ptr %5, align 8
  store float %2, ptr %6, align 4
  %10 = call <16 x float> @splat(float noundef 0.000000e+00)
  store <16 x float> %10, ptr %7, align 64
  store i64 0, ptr %8, align 8
  br label %11

11:                                               ; preds = %32, %3
  %12 = load i64, ptr %8, align 8
  %13 = load i64, ptr %5, align 8
  %14 = icmp slt i64 %12, %13
  br i1 %14, label %15, label %35

15:                                               ; preds = %11
  %16 = load ptr, ptr %4, align 8
  %17 = load i64, ptr %8, align 8
  %18 = getelementptr inbounds float, ptr %16, i64 %17
  %19 = call <16 x float> @load(ptr noundef %18)
  %20 = load float, ptr %6, align 4
  %21 = insertelement <16 x float> poison, float %20, i64 0
  %22 = shufflevector <16 x float> %21, <16 x float> poison, <16 x i32> zeroinitializer
  %23 = fsub <16 x float> %19, %22
  %24 = call <16 x float> @exp_f32(<16 x float> noundef %23)
  store <16 x float> %24, ptr %9, align 64
  %25 = load ptr, ptr %4, align 8
  %26 = load i64, ptr %8, align 8
  %27 = getelementptr inbounds float, ptr %25, i64 %26
  %28 = load <16 x float>, ptr %9, align 64
  call void @store(ptr noundef %27, <16 x float> noundef %28)
  %29 = load <16 x float>, ptr %9, align 64
  %30 = load <16 x float>, ptr %7, align 64
  %31 = fadd <16 x float> %30, %29
  store <16 x float> %31, ptr %7, align 64
  br label %32

32:                                               ; preds = %15
  %33 = load i64, ptr %8, align 8
  %34 = add nsw i64 %33, 16
  store i64 %34, ptr %8, align 8
  br label %11, !llvm.loop !35

35:                                               ; preds = %11
  %36 = load <16 x float>, ptr %7, align 64
  %37 = call float @hsum(<16 x float> noundef %36)
  ret float %37
}

define internal void @sum_values(ptr noundef %0, ptr noundef %1, ptr noundef %2, i64 noundef %3, float noundef %4, ptr noundef %5) #2 {
  %7 = alloca ptr, align 8
  %8 = alloca ptr, align 8
  %9 = alloca ptr, align 8
  %10 = alloca i64, align 8
  %11 = alloca float, align 4
  %12 = alloca ptr, align 8
  %13 = alloca ptr, align 8
  %14 = alloca i64, align 8
  %15 = alloca i64, align 8
  %16 = alloca i64, align 8
  %17 = alloca ptr, align 8
  %18 = alloca <16 x float>, align 64
  %19 = alloca i64, align 8
  %20 = alloca i64, align 8
  store ptr %0, ptr %7, align 8
  store ptr %1, ptr %8, align 8
  store ptr %2, ptr %9, align 8
  store i64 %3, ptr %10, align 8
  store float %4, ptr %11, align 4
  store ptr %5, ptr %12, align 8
  %21 = load i64, ptr @HEAD_WIDTH, align 8
  %22 = sdiv i64 %21, 16
  %23 = call ptr @llvm.stacksave.p0()
  store ptr %23, ptr %13, align 8
  %24 = alloca <16 x float>, i64 %22, align 64
  store i64 %22, ptr %14, align 8
  store i64 0, ptr %15, align 8
  br label %25

25:                                               ; preds = %34, %6
  %26 = load i64, ptr %15, align 8
  %27 = load i64, ptr @HEAD_WIDTH, align 8
  %28 = sdiv i64 %27, 16
  %29 = icmp slt i64 %26, %28
  br i1 %29, label %30, label %37

30:                                               ; preds = %25
  %31 = call <16 x float> @splat(float noundef 0.000000e+00)
  %32 = load i64, ptr %15, align 8
  %33 = getelementptr inbounds <16 x float>, ptr %24, i64 %32
  store <16 x float> %31, ptr %33, align 64
  br label %34

34:                                               ; preds = %30
  %35 = load i64, ptr %15, align 8
  %36 = add nsw i64 %35, 1
  store i64 %36, ptr %15, align 8
  br label %25, !llvm.loop !36

37:                                               ; preds = %25
  store i64 0, ptr %16, align 8
  br label %38

38:                                               ; preds = %81, %37
  %39 = load i64, ptr %16, align 8
  %40 = load i64, ptr %10, align 8
  %41 = icmp slt i64 %39, %40
  br i1 %41, label %42, label %84

42:                                               ; preds = %38
  %43 = load ptr, ptr %8, align 8
  %44 = load i64, ptr %16, align 8
  %45 = load i64, ptr %10, align 8
  %46 = load ptr, ptr %9, align 8
  call void @prefetch_head(ptr noundef %43, i64 noundef %44, i64 noundef %45, ptr noundef %46)
  %47 = load ptr, ptr %8, align 8
  %48 = load i64, ptr %16, align 8
  %49 = call i64 @head_bytes()
  %50 = mul nsw i64 %48, %49
  %51 = getelementptr inbounds i8, ptr %47, i64 %50
  store ptr %51, ptr %17, align 8
  %52 = load ptr, ptr %7, align 8
  %53 = load i64, ptr %16, align 8
  %54 = getelementptr inbounds float, ptr %52, i64 %53
  %55 = load float, ptr %54, align 4
  %56 = load ptr, ptr %17, align 8
  %57 = call float @head_step(ptr noundef %56)
  %58 = fmul float %55, %57
  %59 = call <16 x float> @splat(float noundef %58)
  store <16 x float> %59, ptr %18, align 64
  store i64 0, ptr %19, align 8
  br label %60

60:                                               ; preds = %77, %42
  %61 = load i64, ptr %19, align 8
  %62 = load i64, ptr @HEAD_WIDTH, align 8
  %63 = sdiv i64 %62, 16
  %64 = icmp slt i64 %61, %63
  br i1 %64, label %65, label %80

65:                                               ; preds = %60
  %66 = load <16 x float>, ptr %18, align 64
  %67 = load ptr, ptr %17, align 8
  %68 = load i64, ptr %19, align 8
  %69 = mul nsw i64 %68, 16
  %70 = call <16 x float> @load_head(ptr noundef %67, i64 noundef %69)
  %71 = load i64, ptr %19, align 8
  %72 = getelementptr inbounds <16 x float>, ptr %24, i64 %71
  %73 = load <16 x float>, ptr %72, align 64
  %74 = call <16 x float> @fma(<16 x float> noundef %66, <16 x float> noundef %70, <16 x float> noundef %73)
  %75 = load i64, ptr %19, align 8
  %76 = getelementptr inbounds <16 x float>, ptr %24, i64 %75
  store <16 x float> %74, ptr %76, align 64
  br label %77

77:                                               ; preds = %65
  %78 = load i64, ptr %19, align 8
  %79 = add nsw i64 %78, 1
  store i64 %79, ptr %19, align 8
  br label %60, !llvm.loop !37

80:                                               ; preds = %60
  br label %81

81:                                               ; preds = %80
  %82 = load i64, ptr %16, align 8
  %83 = add nsw i64 %82, 1
  store i64 %83, ptr %16, align 8
  br label %38, !llvm.loop !38

84:                                               ; preds = %38
  store i64 0, ptr %20, align 8
  br label %85

85:                                               ; preds = %102, %84
  %86 = load i64, ptr %20, align 8
  %87 = load i64, ptr @HEAD_WIDTH, align 8
  %88 = sdiv i64 %87, 16
  %89 = icmp slt i64 %86, %88
  br i1 %89, label %90, label %105

90:                                               ; preds = %85
  %91 = load ptr, ptr %12, align 8
  %92 = load i64, ptr %20, align 8
  %93 = mul nsw i64 %92, 16
  %94 = getelementptr inbounds float, ptr %91, i64 %93
  %95 = load i64, ptr %20, align 8
  %96 = getelementptr inbounds <16 x float>, ptr %24, i64 %95
  %97 = load <16 x float>, ptr %96, align 64
  %98 = load float, ptr %11, align 4
  %99 = insertelement <16 x float> poison, float %98, i64 0
  %100 = shufflevector <16 x float> %99, <16 x float> poison, <16 x i32> zeroinitializer
  %101 = fmul <16 x float> %97, %100
  call void @store(ptr noundef %94, <16 x float> noundef %101)
  br label %102

102:                                              ; preds = %90
  %103 = load i64, ptr %20, align 8
  %104 = add nsw i64 %103, 1
  store i64 %104, ptr %20, align 8
  br label %85, !llvm.loop !39

105:                                              ; preds = %85
  %106 = load ptr, ptr %13, align 8
  call void @llvm.stackrestore.p0(ptr %106)
  ret void
}

define dso_local void @replay(ptr noundef %0) #5 {
  %2 = alloca ptr, align 8
  %3 = alloca i64, align 8
  store ptr %0, ptr %2, align 8
  store i64 0, ptr %3, align 8
  br label %4

4:                                                ; preds = %28, %1
  %5 = load i64, ptr %3, align 8
  %6 = load ptr, ptr %2, align 8
  %7 = getelementptr inbounds nuw %struct.replay_args, ptr %6, i32 0, i32 1
  %8 = load i64, ptr %7, align 8
  %9 = icmp slt i64 %5, %8
  br i1 %9, label %10, label %31

10:                                               ; preds = %4
  %11 = load ptr, ptr %2, align 8
  %12 = getelementptr inbounds nuw %struct.replay_args, ptr %11, i32 0, i32 0
  %13 = load ptr, ptr %12, align 8
  %14 = load i64, ptr %3, align 8
  %15 = getelementptr inbounds %struct.kernel_call, ptr %13, i64 %14
  %16 = getelementptr inbounds nuw %struct.kernel_call, ptr %15, i32 0, i32 0
  %17 = load ptr, ptr %16, align 8
  %18 = load ptr, ptr %2, align 8
  %19 = getelementptr inbounds nuw %struct.replay_args, ptr %18, i32 0, i32 0
  %20 = load ptr, ptr %19, align 8
  %21 = load i64, ptr %3, align 8
  %22 = getelementptr inbounds %struct.kernel_call, ptr %20, i64 %21
  %23 = getelementptr inbounds nuw %struct.kernel_call, ptr %22, i32 0, i32 1
  %24 = load ptr, ptr %23, align 8
  call void %17(ptr noundef %24)
  %25 = load ptr, ptr %2, align 8
  %26 = getelementptr inbounds nuw %struct.replay_args, ptr %25, i32 0, i32 2
  %27 = load ptr, ptr %26, align 8
  call void @meet(ptr noundef %27)
  br label %28

28:                                               ; preds = %10
  %29 = load i64, ptr %3, align 8
  %30 = add nsw i64 %29, 1
  store i64 %30, ptr %3, align 8
  br label %4, !llvm.loop !40

31:                                               ; preds = %4
  ret void
}

define internal void @meet(ptr noundef %0) #5 {
  %2 = alloca ptr, align 8
  %3 = alloca i64, align 8
  %4 = alloca i64, align 8
  %5 = alloca i64, align 8
  %6 = alloca i64, align 8
  %7 = alloca i64, align 8
  %8 = alloca i64, align 8
  %9 = alloca i64, align 8
  %10 = alloca i64, align 8
  %11 = alloca i64, align 8
  store ptr %0, ptr %2, align 8
  %12 = load ptr, ptr %2, align 8
  %13 = getelementptr inbounds nuw %struct.barrier, ptr %12, i32 0, i32 0
  %14 = load atomic i64, ptr %13 acquire, align 8
  store i64 %14, ptr %4, align 8
  %15 = load i64, ptr %4, align 8
  store i64 %15, ptr %3, align 8
  %16 = load ptr, ptr %2, align 8
  %17 = getelementptr inbounds nuw %struct.barrier, ptr %16, i32 0, i32 1
  store i64 1, ptr %5, align 8
  %18 = load i64, ptr %5, align 8
  %19 = atomicrmw add ptr %17, i64 %18 acq_rel, align 8
  %20 = add i64 %19, %18
  store i64 %20, ptr %6, align 8
  %21 = load i64, ptr %6, align 8
  %22 = call i32 @omp_get_num_threads()
  %23 = sext i32 %22 to i64
  %24 = icmp eq i64 %21, %23
  br i1 %24, label %25, label %46

25:                                               ; preds = %1
  %26 = load ptr, ptr %2, align 8
  %27 = getelementptr inbounds nuw %struct.barrier, ptr %26, i32 0, i32 1
  store i64 0, ptr %7, align 8
  %28 = load i64, ptr %7, align 8
  store atomic i64 %28, ptr %27 monotonic, align 8
  %29 = load ptr, ptr %2, align 8
  %30 = getelementptr inbounds nuw %struct.barrier, ptr %29, i32 0, i32 2
  %31 = getelementptr inbounds [64 x i8], ptr %30, i64 0, i64 0
  %32 = call i32 @pthread_mutex_lock(ptr noundef %31)
  %33 = load ptr, ptr %2, align 8
  %34 = getelementptr inbounds nuw %struct.barrier, ptr %33, i32 0, i32 0
  %35 = load i64, ptr %3, align 8
  %36 = add nsw i64 %35, 1
  store i64 %36, ptr %8, align 8
  %37 = load i64, ptr %8, align 8
  store atomic i64 %37, ptr %34 release, align 8
  %38 = load ptr, ptr %2, align 8
  %39 = getelementptr inbounds nuw %struct.barrier, ptr %38, i32 0, i32 2
  %40 = getelementptr inbounds [64 x i8], ptr %39, i64 0, i64 0
  %41 = call i32 @pthread_mutex_unlock(ptr noundef %40)
  %42 = load ptr, ptr %2, align 8
  %43 = getelementptr inbounds nuw %struct.barrier, ptr %42, i32 0, i32 3
  %44 = getelementptr inbounds [64 x i8], ptr %43, i64 0, i64 0
  %45 = call i32 @pthread_cond_broadcast(ptr noundef %44)
  br label %88

46:                                               ; preds = %1
  store i64 0, ptr %9, align 8
  br label %47

47:                                               ; preds = %60, %46
  %48 = load i64, ptr %9, align 8
  %49 = load i64, ptr @N_SPINS, align 8
  %50 = icmp slt i64 %48, %49
  br i1 %50, label %51, label %63

51:                                               ; preds = %47
  %52 = load ptr, ptr %2, align 8
  %53 = getelementptr inbounds nuw %struct.barrier, ptr %52, i32 0, i32 0
  %54 = load atomic i64, ptr %53 acquire, align 8
  store i64 %54, ptr %10, align 8
  %55 = load i64, ptr %10, align 8
  %56 = load i64, ptr %3, align 8
  %57 = icmp ne i64 %55, %56
  br i1 %57, label %58, label %59

58:                                               ; preds = %51
  br label %88

59:                                               ; preds = %51
  br label %60

60:                                               ; preds = %59
  %61 = load i64, ptr %9, align 8
  %62 = add nsw i64 %61, 1
  store i64 %62, ptr %9, align 8
  br label %47, !llvm.loop !41

63:                                               ; preds = %47
  %64 = load ptr, ptr %2, align 8
  %65 = getelementptr inbounds nuw %struct.barrier, ptr %64, i32 0, i32 2
  %66 = getelementptr inbounds [64 x i8], ptr %65, i64 0, i64 0
  %67 = call i32 @pthread_mutex_lock(ptr noundef %66)
  br label %68

68:                                               ; preds = %75, %63
  %69 = load ptr, ptr %2, align 8
  %70 = getelementptr inbounds nuw %struct.barrier, ptr %69, i32 0, i32 0
  %71 = load atomic i64, ptr %70 acquire, align 8
  store i64 %71, ptr %11, align 8
  %72 = load i64, ptr %11, align 8
  %73 = load i64, ptr %3, align 8
  %74 = icmp eq i64 %72, %73
  br i1 %74, label %75, label %83

75:                                               ; preds = %68
  %76 = load ptr, ptr %2, align 8
  %77 = getelementptr inbounds nuw %struct.barrier, ptr %76, i32 0, i32 3
  %78 = getelementptr inbounds [64 x i8], ptr %77, i64 0, i64 0
  %79 = load ptr, ptr %2, align 8
  %80 = getelementptr inbounds nuw %struct.barrier, ptr %79, i32 0, i32 2
  %81 = getelementptr inbounds [64 x i8], ptr %80, i64 0, i64 0
  %82 = call i32 @pthread_cond_wait(ptr noundef %78, ptr noundef %81)
  br label %68, !llvm.loop !42

83:                                               ; preds = %68
  %84 = load ptr, ptr %2, align 8
  %85 = getelementptr inbounds nuw %struct.barrier, ptr %84, i32 0, i32 2
  %86 = getelementptr inbounds [64 x i8], ptr %85, i64 0, i64 0
  %87 = call i32 @pthread_mutex_unlock(ptr noundef %86)
  br label %88

88:                                               ; preds = %83, %58, %25
  ret void
}

declare i32 @omp_get_thread_num()

declare i32 @omp_get_num_threads()

declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>) #3

declare <16 x float> @llvm.fabs.v16f32(<16 x float>) #3

define internal float @hmax(<16 x float> noundef %0) #2 {
  %2 = alloca <16 x float>, align 64
  store <16 x float> %0, ptr %2, align 64
  %3 = load <16 x float>, ptr %2, align 64
  %4 = load <16 x float>, ptr %2, align 64
  %5 = shufflevector <16 x float> %3, <16 x float> %4, <16 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7, i32 16, i32 17, i32 18, i32 19, i32 20, i32 21, i32 22, i32 23>
  %6 = load <16 x float>, ptr %2, align 64
  %7 = load <16 x float>, ptr %2, align 64
  %8 = shufflevector <16 x float> %6, <16 x float> %7, <16 x i32> <i32 8, i32 9, i32 10, i32 11, i32 12, i32 13, i32 14, i32 15, i32 24, i32 25, i32 26, i32 27, i32 28, i32 29, i32 30, i32 31>
  %9 = call <16 x float> @larger(<16 x float> noundef %5, <16 x float> noundef %8)
  store <16 x float> %9, ptr %2, align 64
  %10 = load <16 x float>, ptr %2, align 64
  %11 = load <16 x float>, ptr %2, align 64
  %12 = shufflevector <16 x float> %10, <16 x float> %11, <16 x i32> <i32 0, i32 1, i32 2, i32 3, i32 8, i32 9, i32 10, i32 11, i32 16, i32 17, i32 18, i32 19, i32 24, i32 25, i32 26, i32 27>
  %13 = load <16 x float>, ptr %2, align 64
  %14 = load <16 x float>, ptr %2, align 64
  %15 = shufflevector <16 x float> %13, <16 x float> %14, <16 x i32> <i32 4, i32 5, i32 6, i32 7, i32 12, i32 13, i32 14, i32 15, i32 20, i32 21, i32 22, i32 23, i32 28, i32 29, i32 30, i32 31>
  %16 = call <16 x float> @larger(<16 x float> noundef %12, <16 x float> noundef %15)
  store <16 x float> %16, ptr %2, align 64
  %17 = load <16 x float>, ptr %2, align 64
  %18 = load <16 x float>, ptr %2, align 64
  %19 = shufflevector <16 x float> %17, <16 x float> %18, <16 x i32> <i32 0, i32 1, i32 4, i32 5, i32 8, i32 9, i32 12, i32 13, i32 16, i32 17, i32 20, i32 21, i32 24, i32 25, i32 28, i32 29>
  %20 = load <16 x float>, ptr %2, align 64
  %21 = load <16 x float>, ptr %2, align 64
  %22 = shufflevector <16 x float> %20, <16 x float> %21, <16 x i32> <i32 2, i32 3, i32 6, i32 7, i32 10, i32 11, i32 14, i32 15, i32 18, i32 19, i32 22, i32 23, i32 26, i32 27, i32 30, i32 31>
  %23 = call <16 x float> @larger(<16 x float> noundef %19, <16 x float> noundef %22)
  store <16 x float> %23, ptr %2, align 64
  %24 = load <16 x float>, ptr %2, align 64
  %25 = load <16 x float>, ptr %2, align 64
  %26 = shufflevector <16 x float> %24, <16 x float> %25, <16 x i32> <i32 0, i32 2, i32 4, i32 6, i32 8, i32 10, i32 12, i32 14, i32 16, i32 18, i32 20, i32 22, i32 24, i32 26, i32 28, i32 30>
  %27 = load <16 x float>, ptr %2, align 64
  %28 = load <16 x float>, ptr %2, align 64
  %29 = shufflevector <16 x float> %27, <16 x float> %28, <16 x i32> <i32 1, i32 3, i32 5, i32 7, i32 9, i32 11, i32 13, i32 15, i32 17, i32 19, i32 21, i32 23, i32 25, i32 27, i32 29, i32 31>
  %30 = call <16 x float> @larger(<16 x float> noundef %26, <16 x float> noundef %29)
  %31 = extractelement <16 x float> %30, i32 0
  ret float %31
}

define internal void @add_products_int16(ptr noundef %0, ptr noundef %1, ptr noundef %2, i64 noundef %3) #2 {
  %5 = alloca ptr, align 8
  %6 = alloca ptr, align 8
  %7 = alloca ptr, align 8
  %8 = alloca i64, align 8
  %9 = alloca i64, align 8
  %10 = alloca <16 x i32>, align 64
  %11 = alloca i64, align 8
  store ptr %0, ptr %5, align 8
  store ptr %1, ptr %6, align 8
  store ptr %2, ptr %7, align 8
  store i64 %3, ptr %8, align 8
  store i64 0, ptr %9, align 8
  br label %12

12:                                               ; preds = %64, %4
  %13 = load i64, ptr %9, align 8
  %14 = load i64, ptr @N_ROWS, align 8
  %15 = load i64, ptr @N_OUTPUTS, align 8
  %16 = mul nsw i64 %14, %15
  %17 = icmp slt i64 %13, %16
  br i1 %17, label %18, label %67

18:                                               ; preds = %12
  %19 = load ptr, ptr %5, align 8
  %20 = load i64, ptr %9, align 8
  %21 = getelementptr inbounds <16 x float>, ptr %19, i64 %20
  %22 = load <16 x float>, ptr %21, align 64
  %23 = bitcast <16 x float> %22 to <16 x i32>
  store <16 x i32> %23, ptr %10, align 64
  store i64 0, ptr %11, align 8
  br label %24

24:                                               ; preds = %55, %18
  %25 = load i64, ptr %11, align 8
  %26 = load i64, ptr @N_COLUMNS, align 8
  %27 = icmp slt i64 %25, %26
  br i1 %27, label %28, label %58

28:                                               ; preds = %24
  %29 = load <16 x i32>, ptr %10, align 64
  %30 = load ptr, ptr %6, align 8
  %31 = load i64, ptr %11, align 8
  %32 = load i64, ptr @N_ROWS, align 8
  %33 = mul nsw i64 %31, %32
  %34 = getelementptr inbounds i16, ptr %30, i64 %33
  %35 = load i64, ptr %9, align 8
  %36 = load i64, ptr @N_OUTPUTS, align 8
  %37 = sdiv i64 %35, %36
  %38 = mul nsw i64 %37, 2
  %39 = mul nsw i64 %38, 16
  %40 = getelementptr inbounds i16, ptr %34, i64 %39
  %41 = getelementptr inbounds nuw %struct.anon.2, ptr %40, i32 0, i32 0
  %42 = load <32 x i16>, ptr %41, align 1
  %43 = load ptr, ptr %7, align 8
  %44 = load i64, ptr %9, align 8
  %45 = load i64, ptr @N_OUTPUTS, align 8
  %46 = srem i64 %44, %45
  %47 = load i64, ptr %8, align 8
  %48 = mul nsw i64 %46, %47
  %49 = getelementptr inbounds i8, ptr %43, i64 %48
  %50 = load i64, ptr %11, align 8
  %51 = getelementptr inbounds i8, ptr %49, i64 %50
  %52 = getelementptr inbounds nuw %struct.anon.3, ptr %51, i32 0, i32 0
  %53 = load <32 x i8>, ptr %52, align 1
  %54 = call <16 x i32> @dot_int16(<16 x i32> noundef %29, <32 x i16> noundef %42, <32 x i8> noundef %53)
  store <16 x i32> %54, ptr %10, align 64
  br label %55

55:                                               ; preds = %28
  %56 = load i64, ptr %11, align 8
  %57 = add nsw i64 %56, 32
  store i64 %57, ptr %11, align 8
  br label %24, !llvm.loop !43

58:                                               ; preds = %24
  %59 = load <16 x i32>, ptr %10, align 64
  %60 = bitcast <16 x i32> %59 to <16 x float>
  %61 = load ptr, ptr %5, align 8
  %62 = load i64, ptr %9, align 8
  %63 = getelementptr inbounds <16 x float>, ptr %61, i64 %62
  store <16 x float> %60, ptr %63, align 64
  br label %64

64:                                               ; preds = %58
  %65 = load i64, ptr %9, align 8
  %66 = add nsw i64 %65, 1
  store i64 %66, ptr %9, align 8
  br label %12, !llvm.loop !44

67:                                               ; preds = %12
  ret void
}

define internal void @add_products_f32(ptr noundef %0, ptr noundef %1, ptr noundef %2, i64 noundef %3) #2 {
  %5 = alloca ptr, align 8
  %6 = alloca ptr, align 8
  %7 = alloca ptr, align 8
  %8 = alloca i64, align 8
  %9 = alloca i64, align 8
  %10 = alloca [2 x <16 x float>], align 64
  %11 = alloca i64, align 8
  %12 = alloca i64, align 8
  store ptr %0, ptr %5, align 8
  store ptr %1, ptr %6, align 8
  store ptr %2, ptr %7, align 8
  store i64 %3, ptr %8, align 8
  store i64 0, ptr %9, align 8
  br label %13

13:                                               ; preds = %86, %4
  %14 = load i64, ptr %9, align 8
  %15 = load i64, ptr @N_COLUMNS, align 8
  %16 = icmp slt i64 %14, %15
  br i1 %16, label %17, label %89

17:                                               ; preds = %13
  store i64 0, ptr %11, align 8
  br label %18

18:                                               ; preds = %47, %17
  %19 = load i64, ptr %11, align 8
  %20 = load i64, ptr @N_OUTPUTS, align 8
  %21 = icmp slt i64 %19, %20
  br i1 %21, label %22, label %50

22:                                               ; preds = %18
  %23 = load i64, ptr @IS_INT8, align 8
  %24 = icmp ne i64 %23, 0
  br i1 %24, label %25, label %34

25:                                               ; preds = %22
  %26 = load ptr, ptr %7, align 8
  %27 = load i64, ptr %11, align 8
  %28 = load i64, ptr %8, align 8
  %29 = mul nsw i64 %27, %28
  %30 = getelementptr inbounds i8, ptr %26, i64 %29
  %31 = load i64, ptr %9, align 8
  %32 = getelementptr inbounds i8, ptr %30, i64 %31
  %33 = call <16 x float> @load_int8(ptr noundef %32)
  br label %43

34:                                               ; preds = %22
  %35 = load ptr, ptr %7, align 8
  %36 = load i64, ptr %11, align 8
  %37 = load i64, ptr %8, align 8
  %38 = mul nsw i64 %36, %37
  %39 = getelementptr inbounds i8, ptr %35, i64 %38
  %40 = load i64, ptr %9, align 8
  %41 = getelementptr inbounds float, ptr %39, i64 %40
  %42 = call <16 x float> @load(ptr noundef %41)
  br label %43

43:                                               ; preds = %34, %25
  %44 = phi <16 x float> [ %33, %25 ], [ %42, %34 ]
  %45 = load i64, ptr %11, align 8
  %46 = getelementptr inbounds [2 x <16 x float>], ptr %10, i64 0, i64 %45
  store <16 x float> %44, ptr %46, align 64
  br label %47

47:                                               ; preds = %43
  %48 = load i64, ptr %11, align 8
  %49 = add nsw i64 %48, 1
  store i64 %49, ptr %11, align 8
  br label %18, !llvm.loop !45

50:                                               ; preds = %18
  store i64 0, ptr %12, align 8
  br label %51

51:                                               ; preds = %82, %50
  %52 = load i64, ptr %12, align 8
  %53 = load i64, ptr @N_ROWS, align 8
  %54 = load i64, ptr @N_OUTPUTS, align 8
  %55 = mul nsw i64 %53, %54
  %56 = icmp slt i64 %52, %55
  br i1 %56, label %57, label %85

57:                                               ; preds = %51
  %58 = load ptr, ptr %6, align 8
  %59 = load i64, ptr %9, align 8
  %60 = load i64, ptr @N_ROWS, align 8
  %61 = mul nsw i64 %59, %60
  %62 = getelementptr inbounds float, ptr %58, i64 %61
  %63 = load i64, ptr %12, align 8
  %64 = load i64, ptr @N_OUTPUTS, align 8
  %65 = sdiv i64 %63, %64
  %66 = mul nsw i64 %65, 16
  %67 = getelementptr inbounds float, ptr %62, i64 %66
  %68 = call <16 x float> @load(ptr noundef %67)
  %69 = load i64, ptr %12, align 8
  %70 = load i64, ptr @N_OUTPUTS, align 8
  %71 = srem i64 %69, %70
  %72 = getelementptr inbounds [2 x <16 x float>], ptr %10, i64 0, i64 %71
  %73 = load <16 x float>, ptr %72, align 64
  %74 = load ptr, ptr %5, align 8
  %75 = load i64, ptr %12, align 8
  %76 = getelementptr inbounds <16 x float>, ptr %74, i64 %75
  %77 = load <16 x float>, ptr %76, align 64
  %78 = call <16 x float> @fma(<16 x float> noundef %68, <16 x float> noundef %73, <16 x float> noundef %77)
  %79 = load ptr, ptr %5, align 8
  %80 = load i64, ptr %12, align 8
  %81 = getelementptr inbounds <16 x float>, ptr %79, i64 %80
  store <16 x float> %78, ptr %81, align 64
  br label %82

82:                                               ; preds = %57
  %83 = load i64, ptr %12, align 8
  %84 = add nsw i64 %83, 1
  store i64 %84, ptr %12, align 8
  br label %51, !llvm.loop !46

85:                                               ; preds = %51
  br label %86

86:                                               ; preds = %85
  %87 = load i64, ptr %9, align 8
  %88 = add nsw i64 %87, 16
  store i64 %88, ptr %9, align 8
  br label %13, !llvm.loop !47

89:                                               ; preds = %13
  ret void
}

define internal void @prefetch(ptr noundef %0, i64 noundef %1, i64 noundef %2) #1 {
  %4 = alloca ptr, align 8
  %5 = alloca i64, align 8
  %6 = alloca i64, align 8
  %7 = alloca i64, align 8
  store ptr %0, ptr %4, align 8
  store i64 %1, ptr %5, align 8
  store i64 %2, ptr %6, align 8
  store i64 0, ptr %7, align 8
  br label %8

8:                                                ; preds = %20, %3
  %9 = load i64, ptr %7, align 8
  %10 = load i64, ptr %6, align 8
  %11 = icmp slt i64 %9, %10
  br i1 %11, label %12, label %23

12:                                               ; preds = %8
  %13 = load ptr, ptr %4, align 8
  %14 = ptrtoint ptr %13 to i64
  %15 = load i64, ptr %5, align 8
  %16 = add i64 %14, %15
  %17 = load i64, ptr %7, align 8
  %18 = add i64 %16, %17
  %19 = inttoptr i64 %18 to ptr
  call void @llvm.prefetch.p0(ptr %19, i32 0, i32 2, i32 1)
  br label %20

20:                                               ; preds = %12
  %21 = load i64, ptr %7, align 8
  %22 = add nsw i64 %21, 64
  store i64 %22, ptr %7, align 8
  br label %8, !llvm.loop !48

23:                                               ; preds = %8
  ret void
}

define internal <16 x i32> @dot_int16(<16 x i32> noundef %0, <32 x i16> noundef %1, <32 x i8> noundef %2) #2 {
  %4 = alloca <16 x i32>, align 64
  %5 = alloca <32 x i16>, align 64
  %6 = alloca <32 x i8>, align 32
  %7 = alloca <32 x i32>, align 128
  store <16 x i32> %0, ptr %4, align 64
  store <32 x i16> %1, ptr %5, align 64
  store <32 x i8> %2, ptr %6, align 32
  %8 = load <32 x i16>, ptr %5, align 64
  %9 = sext <32 x i16> %8 to <32 x i32>
  %10 = load <32 x i8>, ptr %6, align 32
  %11 = sext <32 x i8> %10 to <32 x i32>
  %12 = mul <32 x i32> %9, %11
  store <32 x i32> %12, ptr %7, align 128
  %13 = load <32 x i32>, ptr %7, align 128
  %14 = shufflevector <32 x i32> %13, <32 x i32> poison, <16 x i32> <i32 0, i32 2, i32 4, i32 6, i32 8, i32 10, i32 12, i32 14, i32 16, i32 18, i32 20, i32 22, i32 24, i32 26, i32 28, i32 30>
  %15 = load <32 x i32>, ptr %7, align 128
  %16 = shufflevector <32 x i32> %15, <32 x i32> poison, <16 x i32> <i32 1, i32 3, i32 5, i32 7, i32 9, i32 11, i32 13, i32 15, i32 17, i32 19, i32 21, i32 23, i32 25, i32 27, i32 29, i32 31>
  %17 = add <16 x i32> %14, %16
  %18 = load <16 x i32>, ptr %4, align 64
  %19 = add <16 x i32> %17, %18
  ret <16 x i32> %19
}

define internal <16 x float> @load_int8(ptr noundef %0) #2 {
  %2 = alloca ptr, align 8
  store ptr %0, ptr %2, align 8
  %3 = load ptr, ptr %2, align 8
  %4 = getelementptr inbounds nuw %struct.anon.4, ptr %3, i32 0, i32 0
  %5 = load <16 x i8>, ptr %4, align 1
  %6 = sitofp <16 x i8> %5 to <16 x float>
  ret <16 x float> %6
}

declare void @llvm.prefetch.p0(ptr readonly captures(none), i32 immarg, i32 immarg, i32 immarg) #7

declare void @llvm.memset.p0.i64(ptr writeonly captures(none), i8, i64, i1 immarg) #8

define internal <16 x float> @hsum_16(ptr noundef %0) #2 {
  %2 = alloca ptr, align 8
  %3 = alloca i64, align 8
  %4 = alloca i64, align 8
  %5 = alloca i64, align 8
  store ptr %0, ptr %2, align 8
  store i64 0, ptr %3, align 8
  br label %6

6:                                                ; preds = %38, %1
  %7 = load i64, ptr %3, align 8
  %8 = icmp slt i64 %7, 8
  br i1 %8, label %9, label %41

9:                                                ; preds = %6
  %10 = load ptr, ptr %2, align 8
  %11 = load i64, ptr %3, align 8
  %12 = mul nsw i64 2, %11
  %13 = getelementptr inbounds <16 x float>, ptr %10, i64 %12
  %14 = load <16 x float>, ptr %13, align 64
  %15 = load ptr, ptr %2, align 8
  %16 = load i64, ptr %3, align 8
  %17 = mul nsw i64 2, %16
  %18 = add nsw i64 %17, 1
  %19 = getelementptr inbounds <16 x float>, ptr %15, i64 %18
  %20 = load <16 x float>, ptr %19, align 64
  %21 = shufflevector <16 x float> %14, <16 x float> %20, <16 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7, i32 16, i32 17, i32 18, i32 19, i32 20, i32 21, i32 22, i32 23>
  %22 = load ptr, ptr %2, align 8
  %23 = load i64, ptr %3, align 8
  %24 = mul nsw i64 2, %23
  %25 = getelementptr inbounds <16 x float>, ptr %22, i64 %24
  %26 = load <16 x float>, ptr %25, align 64
  %27 = load ptr, ptr %2, align 8
  %28 = load i64, ptr %3, align 8
  %29 = mul nsw i64 2, %28
  %30 = add nsw i64 %29, 1
  %31 = getelementptr inbounds <16 x float>, ptr %27, i64 %30
  %32 = load <16 x float>, ptr %31, align 64
  %33 = shufflevector <16 x float> %26, <16 x float> %32, <16 x i32> <i32 8, i32 9, i32 10, i32 11, i32 12, i32 13, i32 14, i32 15, i32 24, i32 25, i32 26, i32 27, i32 28, i32 29, i32 30, i32 31>
  %34 = fadd <16 x float> %21, %33
  %35 = load ptr, ptr %2, align 8
  %36 = load i64, ptr %3, align 8
  %37 = getelementptr inbounds <16 x float>, ptr %35, i64 %36
  store <16 x float> %34, ptr %37, align 64
  br label %38

38:                                               ; preds = %9
  %39 = load i64, ptr %3, align 8
  %40 = add nsw i64 %39, 1
  store i64 %40, ptr %3, align 8
  br label %6, !llvm.loop !49

41:                                               ; preds = %6
  store i64 0, ptr %4, align 8
  br label %42

42:                                               ; preds = %74, %41
  %43 = load i64, ptr %4, align 8
  %44 = icmp slt i64 %43, 4
  br i1 %44, label %45, label %77

45:                                               ; preds = %42
  %46 = load ptr, ptr %2, align 8
  %47 = load i64, ptr %4, align 8
  %48 = mul nsw i64 2, %47
  %49 = getelementptr inbounds <16 x float>, ptr %46, i64 %48
  %50 = load <16 x float>, ptr %49, align 64
  %51 = load ptr, ptr %2, align 8
  %52 = load i64, ptr %4, align 8
  %53 = mul nsw i64 2, %52
  %54 = add nsw i64 %53, 1
  %55 = getelementptr inbounds <16 x float>, ptr %51, i64 %54
  %56 = load <16 x float>, ptr %55, align 64
  %57 = shufflevector <16 x float> %50, <16 x float> %56, <16 x i32> <i32 0, i32 1, i32 2, i32 3, i32 8, i32 9, i32 10, i32 11, i32 16, i32 17, i32 18, i32 19, i32 24, i32 25, i32 26, i32 27>
  %58 = load ptr, ptr %2, align 8
  %59 = load i64, ptr %4, align 8
  %60 = mul nsw i64 2, %59
  %61 = getelementptr inbounds <16 x float>, ptr %58, i64 %60
  %62 = load <16 x float>, ptr %61, align 64
  %63 = load ptr, ptr %2, align 8
  %64 = load i64, ptr %4, align 8
  %65 = mul nsw i64 2, %64
  %66 = add nsw i64 %65, 1
  %67 = getelementptr inbounds <16 x float>, ptr %63, i64 %66
  %68 = load <16 x float>, ptr %67, align 64
  %69 = shufflevector <16 x float> %62, <16 x float> %68, <16 x i32> <i32 4, i32 5, i32 6, i32 7, i32 12, i32 13, i32 14, i32 15, i32 20, i32 21, i32 22, i32 23, i32 28, i32 29, i32 30, i32 31>
  %70 = fadd <16 x float> %57, %69
  %71 = load ptr, ptr %2, align 8
  %72 = load i64, ptr %4, align 8
  %73 = getelementptr inbounds <16 x float>, ptr %71, i64 %72
  store <16 x float> %70, ptr %73, align 64
  br label %74

74:                                               ; preds = %45
  %75 = load i64, ptr %4, align 8
  %76 = add nsw i64 %75, 1
  store i64 %76, ptr %4, align 8
  br label %42, !llvm.loop !50

77:                                               ; preds = %42
  store i64 0, ptr %5, align 8
  br label %78

78:                                               ; preds = %110, %77
  %79 = load i64, ptr %5, align 8
  %80 = icmp slt i64 %79, 2
  br i1 %80, label %81, label %113

81:                                               ; preds = %78
  %82 = load ptr, ptr %2, align 8
  %83 = load i64, ptr %5, align 8
  %84 = mul nsw i64 2, %83
  %85 = getelementptr inbounds <16 x float>, ptr %82, i64 %84
  %86 = load <16 x float>, ptr %85, align 64
  %87 = load ptr, ptr %2, align 8
  %88 = load i64, ptr %5, align 8
  %89 = mul nsw i64 2, %88
  %90 = add nsw i64 %89, 1
  %91 = getelementptr inbounds <16 x float>, ptr %87, i64 %90
  %92 = load <16 x float>, ptr %91, align 64
  %93 = shufflevector <16 x float> %86, <16 x float> %92, <16 x i32> <i32 0, i32 1, i32 4, i32 5, i32 8, i32 9, i32 12, i32 13, i32 16, i32 17, i32 20, i32 21, i32 24, i32 25, i32 28, i32 29>
  %94 = load ptr, ptr %2, align 8
  %95 = load i64, ptr %5, align 8
  %96 = mul nsw i64 2, %95
  %97 = getelementptr inbounds <16 x float>, ptr %94, i64 %96
  %98 = load <16 x float>, ptr %97, align 64
  %99 = load ptr, ptr %2, align 8
  %100 = load i64, ptr %5, align 8
  %101 = mul nsw i64 2, %100
  %102 = add nsw i64 %101, 1
  %103 = getelementptr inbounds <16 x float>, ptr %99, i64 %102
  %104 = load <16 x float>, ptr %103, align 64
  %105 = shufflevector <16 x float> %98, <16 x float> %104, <16 x i32> <i32 2, i32 3, i32 6, i32 7, i32 10, i32 11, i32 14, i32 15, i32 18, i32 19, i32 22, i32 23, i32 26, i32 27, i32 30, i32 31>
  %106 = fadd <16 x float> %93, %105
  %107 = load ptr, ptr %2, align 8
  %108 = load i64, ptr %5, align 8
  %109 = getelementptr inbounds <16 x float>, ptr %107, i64 %108
  store <16 x float> %106, ptr %109, align 64
  br label %110

110:                                              ; preds = %81
  %111 = load i64, ptr %5, align 8
  %112 = add nsw i64 %111, 1
  store i64 %112, ptr %5, align 8
  br label %78, !llvm.loop !51

113:                                              ; preds = %78
  %114 = load ptr, ptr %2, align 8
  %115 = getelementptr inbounds <16 x float>, ptr %114, i64 0
  %116 = load <16 x float>, ptr %115, align 64
  %117 = load ptr, ptr %2, align 8
  %118 = getelementptr inbounds <16 x float>, ptr %117, i64 1
  %119 = load <16 x float>, ptr %118, align 64
  %120 = shufflevector <16 x float> %116, <16 x float> %119, <16 x i32> <i32 0, i32 2, i32 4, i32 6, i32 8, i32 10, i32 12, i32 14, i32 16, i32 18, i32 20, i32 22, i32 24, i32 26, i32 28, i32 30>
  %121 = load ptr, ptr %2, align 8
  %122 = getelementptr inbounds <16 x float>, ptr %121, i64 0
  %123 = load <16 x float>, ptr %122, align 64
  %124 = load ptr, ptr %2, align 8
  %125 = getelementptr inbounds <16 x float>, ptr %124, i64 1
  %126 = load <16 x float>, ptr %125, align 64
  %127 = shufflevector <16 x float> %123, <16 x float> %126, <16 x i32> <i32 1, i32 3, i32 5, i32 7, i32 9, i32 11, i32 13, i32 15, i32 17, i32 19, i32 21, i32 23, i32 25, i32 27, i32 29, i32 31>
  %128 = fadd <16 x float> %120, %127
  ret <16 x float> %128
}

define internal <16 x float> @erf_f32(<16 x float> noundef %0) #2 {
  %2 = alloca <16 x float>, align 64
  %3 = alloca <16 x float>, align 64
  %4 = alloca <16 x float>, align 64
  %5 = alloca <16 x float>, align 64
  store <16 x float> %0, ptr %2, align 64
  %6 = load <16 x float>, ptr %2, align 64
  %7 = call <16 x float> @magnitude(<16 x float> noundef %6)
  store <16 x float> %7, ptr %3, align 64
  %8 = load <16 x float>, ptr %3, align 64
  %9 = call <16 x float> @splat(float noundef 0x3FD4F740A0000000)
  %10 = call <16 x float> @splat(float noundef 1.000000e+00)
  %11 = call <16 x float> @fma(<16 x float> noundef %8, <16 x float> noundef %9, <16 x float> noundef %10)
  %12 = fdiv <16 x float> splat (float 1.000000e+00), %11
  store <16 x float> %12, ptr %4, align 64
  %13 = call <16 x float> @splat(float noundef 0x3FF0FB8440000000)
  store <16 x float> %13, ptr %5, align 64
  %14 = load <16 x float>, ptr %5, align 64
  %15 = load <16 x float>, ptr %4, align 64
  %16 = call <16 x float> @splat(float noundef 0xBFF7401C60000000)
  %17 = call <16 x float> @fma(<16 x float> noundef %14, <16 x float> noundef %15, <16 x float> noundef %16)
  store <16 x float> %17, ptr %5, align 64
  %18 = load <16 x float>, ptr %5, align 64
  %19 = load <16 x float>, ptr %4, align 64
  %20 = call <16 x float> @splat(float noundef 0x3FF6BE1C60000000)
  %21 = call <16 x float> @fma(<16 x float> noundef %18, <16 x float> noundef %19, <16 x float> noundef %20)
  store <16 x float> %21, ptr %5, align 64
  %22 = load <16 x float>, ptr %5, align 64
  %23 = load <16 x float>, ptr %4, align 64
  %24 = call <16 x float> @splat(float noundef 0xBFD23531C0000000)
  %25 = call <16 x float> @fma(<16 x float> noundef %22, <16 x float> noundef %23, <16 x float> noundef %24)
  store <16 x float> %25, ptr %5, align 64
  %26 = load <16 x float>, ptr %5, align 64
  %27 = load <16 x float>, ptr %4, align 64
  %28 = call <16 x float> @splat(float noundef 0x3FD04F20C0000000)
  %29 = call <16 x float> @fma(<16 x float> noundef %26, <16 x float> noundef %27, <16 x float> noundef %28)
  store <16 x float> %29, ptr %5, align 64
  %30 = load <16 x float>, ptr %5, align 64
  %31 = load <16 x float>, ptr %4, align 64
  %32 = fmul <16 x float> %30, %31
  %33 = load <16 x float>, ptr %3, align 64
  %34 = load <16 x float>, ptr %3, align 64
  %35 = fmul <16 x float> %33, %34
  %36 = fneg <16 x float> %35
  %37 = call <16 x float> @exp_f32(<16 x float> noundef %36)
  %38 = fmul <16 x float> %32, %37
  %39 = fsub <16 x float> splat (float 1.000000e+00), %38
  %40 = load <16 x float>, ptr %2, align 64
  %41 = call <16 x float> @llvm.copysign.v16f32(<16 x float> %39, <16 x float> %40)
  ret <16 x float> %41
}

define internal <16 x float> @exp_f32(<16 x float> noundef %0) #2 {
  %2 = alloca <16 x float>, align 64
  %3 = alloca <16 x float>, align 64
  %4 = alloca <16 x float>, align 64
  %5 = alloca <16 x float>, align 64
  store <16 x float> %0, ptr %2, align 64
  %6 = load <16 x float>, ptr %2, align 64
  %7 = fcmp olt <16 x float> %6, splat (float -8.700000e+01)
  %8 = sext <16 x i1> %7 to <16 x i32>
  %9 = call <16 x float> @splat(float noundef -8.700000e+01)
  %10 = load <16 x float>, ptr %2, align 64
  %11 = icmp slt <16 x i32> %8, zeroinitializer
  %12 = select <16 x i1> %11, <16 x float> %9, <16 x float> %10
  store <16 x float> %12, ptr %2, align 64
  %13 = load <16 x float>, ptr %2, align 64
  %14 = fmul <16 x float> %13, splat (float 0x3FF7154760000000)
  %15 = call <16 x float> @llvm.rint.v16f32(<16 x float> %14)
  store <16 x float> %15, ptr %3, align 64
  %16 = load <16 x float>, ptr %3, align 64
  %17 = call <16 x float> @splat(float noundef 0x3F2BD01060000000)
  %18 = load <16 x float>, ptr %3, align 64
  %19 = call <16 x float> @splat(float noundef 0xBFE6300000000000)
  %20 = load <16 x float>, ptr %2, align 64
  %21 = call <16 x float> @fma(<16 x float> noundef %18, <16 x float> noundef %19, <16 x float> noundef %20)
  %22 = call <16 x float> @fma(<16 x float> noundef %16, <16 x float> noundef %17, <16 x float> noundef %21)
  store <16 x float> %22, ptr %4, align 64
  %23 = call <16 x float> @splat(float noundef 0x3F2A01A020000000)
  store <16 x float> %23, ptr %5, align 64
  %24 = load <16 x float>, ptr %5, align 64
  %25 = load <16 x float>, ptr %4, align 64
  %26 = call <16 x float> @splat(float noundef 0x3F56C16C20000000)
  %27 = call <16 x float> @fma(<16 x float> noundef %24, <16 x float> noundef %25, <16 x float> noundef %26)
  store <16 x float> %27, ptr %5, align 64
  %28 = load <16 x float>, ptr %5, align 64
  %29 = load <16 x float>, ptr %4, align 64
  %30 = call <16 x float> @splat(float noundef 0x3F81111120000000)
  %31 = call <16 x float> @fma(<16 x float> noundef %28, <16 x float> noundef %29, <16 x float> noundef %30)
  store <16 x float> %31, ptr %5, align 64
  %32 = load <16 x float>, ptr %5, align 64
  %33 = load <16 x float>, ptr %4, align 64
  %34 = call <16 x float> @splat(float noundef 0x3FA5555560000000)
  %35 = call <16 x float> @fma(<16 x float> noundef %32, <16 x float> noundef %33, <16 x float> noundef %34)
  store <16 x float> %35, ptr %5, align 64
  %36 = load <16 x float>, ptr %5, align 64
  %37 = load <16 x float>, ptr %4, align 64
  %38 = call <16 x float> @splat(float noundef 0x3FC5555560000000)
  %39 = call <16 x float> @fma(<16 x float> noundef %36, <16 x float> noundef %37, <16 x float> noundef %38)
  store <16 x float> %39, ptr %5, align 64
  %40 = load <16 x float>, ptr %5, align 64
  %41 = load <16 x float>, ptr %4, align 64
  %42 = call <16 x float> @splat(float noundef 5.000000e-01)
  %43 = call <16 x float> @fma(<16 x float> noundef %40, <16 x float> noundef %41, <16 x float> noundef %42)
  store <16 x float> %43, ptr %5, align 64
  %44 = load <16 x float>, ptr %5, align 64
  %45 = load <16 x float>, ptr %4, align 64
  %46 = call <16 x float> @splat(float noundef 1.000000e+00)
  %47 = call <16 x float> @fma(<16 x float> noundef %44, <16 x float> noundef %45, <16 x float> noundef %46)
  store <16 x float> %47, ptr %5, align 64
  %48 = load <16 x float>, ptr %5, align 64
  %49 = load <16 x float>, ptr %4, align 64
  %50 = call <16 x float> @splat(float noundef 1.000000e+00)
  %51 = call <16 x float> @fma(<16 x float> noundef %48, <16 x float> noundef %49, <16 x float> noundef %50)
  store <16 x float> %51, ptr %5, align 64
  %52 = load <16 x float>, ptr %5, align 64
  %53 = load <16 x float>, ptr %3, align 64
  %54 = call <16 x i32> @round_to_int(<16 x float> noundef %53)
  %55 = add <16 x i32> %54, splat (i32 127)
  %56 = shl <16 x i32> %55, splat (i32 23)
  %57 = bitcast <16 x i32> %56 to <16 x float>
  %58 = fmul <16 x float> %52, %57
  ret <16 x float> %58
}

declare <16 x float> @llvm.copysign.v16f32(<16 x float>, <16 x float>) #3

declare <16 x float> @llvm.rint.v16f32(<16 x float>) #3

declare ptr @llvm.stacksave.p0() #9

declare double @llvm.sqrt.f64(double) #3

define internal void @prefetch_head(ptr noundef %0, i64 noundef %1, i64 noundef %2, ptr noundef %3) #1 {
  %5 = alloca ptr, align 8
  %6 = alloca i64, align 8
  %7 = alloca i64, align 8
  %8 = alloca ptr, align 8
  %9 = alloca i64, align 8
  %10 = alloca ptr, align 8
  store ptr %0, ptr %5, align 8
  store i64 %1, ptr %6, align 8
  store i64 %2, ptr %7, align 8
  store ptr %3, ptr %8, align 8
  %11 = load i64, ptr %6, align 8
  %12 = call i64 @head_bytes()
  %13 = add nsw i64 4096, %12
  %14 = sub nsw i64 %13, 1
  %15 = call i64 @head_bytes()
  %16 = sdiv i64 %14, %15
  %17 = add nsw i64 %11, %16
  store i64 %17, ptr %9, align 8
  %18 = load i64, ptr %9, align 8
  %19 = load i64, ptr %7, align 8
  %20 = icmp slt i64 %18, %19
  br i1 %20, label %21, label %23

21:                                               ; preds = %4
  %22 = load ptr, ptr %5, align 8
  br label %25

23:                                               ; preds = %4
  %24 = load ptr, ptr %8, align 8
  br label %25

25:                                               ; preds = %23, %21
  %26 = phi ptr [ %22, %21 ], [ %24, %23 ]
  store ptr %26, ptr %10, align 8
  %27 = load ptr, ptr %10, align 8
  %28 = load i64, ptr %9, align 8
  %29 = load i64, ptr %7, align 8
  %30 = icmp slt i64 %28, %29
  br i1 %30, label %31, label %33

31:                                               ; preds = %25
  %32 = load i64, ptr %9, align 8
  br label %37

33:                                               ; preds = %25
  %34 = load i64, ptr %9, align 8
  %35 = load i64, ptr %7, align 8
  %36 = sub nsw i64 %34, %35
  br label %37

37:                                               ; preds = %33, %31
  %38 = phi i64 [ %32, %31 ], [ %36, %33 ]
  %39 = call i64 @head_bytes()
  %40 = mul nsw i64 %38, %39
  %41 = call i64 @head_bytes()
  call void @prefetch(ptr noundef %27, i64 noundef %40, i64 noundef %41)
  ret void
}

define internal <16 x float> @load_head(ptr noundef %0, i64 noundef %1) #2 {
  %3 = alloca ptr, align 8
  %4 = alloca i64, align 8
  store ptr %0, ptr %3, align 8
  store i64 %1, ptr %4, align 8
  %5 = load i64, ptr @IS_INT8, align 8
  %6 = icmp ne i64 %5, 0
  br i1 %6, label %7, label %12

7:                                                ; preds = %2
  %8 = load ptr, ptr %3, align 8
  %9 = load i64, ptr %4, align 8
  %10 = getelementptr inbounds i8, ptr %8, i64 %9
  %11 = call <16 x float> @load_int8(ptr noundef %10)
  br label %17

12:                                               ; preds = %2
  %13 = load ptr, ptr %3, align 8
  %14 = load i64, ptr %4, align 8
  %15 = getelementptr inbounds float, ptr %13, i64 %14
  %16 = call <16 x float> @load(ptr noundef %15)
  br label %17

17:                                               ; preds = %12, %7
  %18 = phi <16 x float> [ %11, %7 ], [ %16, %12 ]
  ret <16 x float> %18
}

define internal float @head_step(ptr noundef %0) #1 {
  %2 = alloca ptr, align 8
  store ptr %0, ptr %2, align 8
  %3 = load i64, ptr @IS_INT8, align 8
  %4 = icmp ne i64 %3, 0
  br i1 %4, label %5, label %11

5:                                                ; preds = %1
  %6 = load ptr, ptr %2, align 8
  %7 = load i64, ptr @HEAD_WIDTH, align 8
  %8 = getelementptr inbounds i8, ptr %6, i64 %7
  %9 = getelementptr inbounds nuw %struct.anon.7, ptr %8, i32 0, i32 0
  %10 = load float, ptr %9, align 1
  br label %12

11:                                               ; preds = %1
  br label %12

12:                                               ; preds = %11, %5
  %13 = phi float [ %10, %5 ], [ 1.000000e+00, %11 ]
  ret float %13
}

declare void @llvm.stackrestore.p0(ptr) #9

declare i32 @pthread_mutex_lock(ptr noundef)

declare i32 @pthread_mutex_unlock(ptr noundef)

declare i32 @pthread_cond_broadcast(ptr noundef)

declare i32 @pthread_cond_wait(ptr noundef, ptr noundef)

attributes #0 = { nounwind }
attributes #1 = { alwaysinline nounwind }
attributes #2 = { alwaysinline nounwind }
attributes #3 = { nocallback nocreateundeforpoison nofree nosync nounwind speculatable willreturn memory(none) }
attributes #4 = { nocallback nofree nounwind willreturn memory(argmem: readwrite) }
attributes #5 = { nounwind }
attributes #7 = { nocallback nofree nosync nounwind willreturn memory(argmem: readwrite, inaccessiblemem: readwrite) }
attributes #8 = { nocallback nofree nounwind willreturn memory(argmem: write) }
attributes #9 = { nocallback nofree nosync nounwind willreturn }


!5 = distinct !{!5, !6}
!6 = !{!"llvm.loop.mustprogress"}
!7 = distinct !{!7, !6}
!8 = distinct !{!8, !6}
!9 = distinct !{!9, !6}
!10 = distinct !{!10, !6, !11}
!11 = !{!"llvm.loop.unroll.full"}
!12 = distinct !{!12, !6}
!13 = distinct !{!13, !6}
!14 = distinct !{!14, !6}
!15 = distinct !{!15, !6}
!16 = distinct !{!16, !6, !11}
!17 = distinct !{!17, !6, !11}
!18 = distinct !{!18, !6, !11}
!19 = distinct !{!19, !6}
!20 = distinct !{!20, !6}
!21 = distinct !{!21, !6, !11}
!22 = distinct !{!22, !6}
!23 = distinct !{!23, !6, !11}
!24 = distinct !{!24, !6}
!25 = distinct !{!25, !6, !11}
!26 = distinct !{!26, !6, !11}
!27 = distinct !{!27, !6, !11}
!28 = distinct !{!28, !6}
!29 = distinct !{!29, !6, !11}
!30 = distinct !{!30, !6, !11}
!31 = distinct !{!31, !6, !11}
!32 = distinct !{!32, !6, !11}
!33 = distinct !{!33, !6, !11}
!34 = distinct !{!34, !6}
!35 = distinct !{!35, !6}
!36 = distinct !{!36, !6, !11}
!37 = distinct !{!37, !6, !11}
!38 = distinct !{!38, !6}
!39 = distinct !{!39, !6, !11}
!40 = distinct !{!40, !6}
!41 = distinct !{!41, !6}
!42 = distinct !{!42, !6}
!43 = distinct !{!43, !6, !11}
!44 = distinct !{!44, !6, !11}
!45 = distinct !{!45, !6, !11}
!46 = distinct !{!46, !6, !11}
!47 = distinct !{!47, !6, !11}
!48 = distinct !{!48, !6, !11}
!49 = distinct !{!49, !6, !11}
!50 = distinct !{!50, !6, !11}
!51 = distinct !{!51, !6, !11}
